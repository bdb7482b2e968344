//! A host that somebody else has taken over, in a running cloud: with all that its agent has (its
//! secret, its account at the broker, what it knows of others) it speaks for itself and nobody else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use berth_agent::identity::HostKey;
use berth_agent::link::{Controller as _, Credentials, HttpsLink, LinkError};
use berth_rpc::clock::SystemClock;
use berth_rpc_types::link::{BrokerRequest, SyncRequest};
use berth_rpc_types::{
    Capacity, CommandResult, Envelope, HostId, Observation, Outcome, Telemetry, VmmState,
};
use berth_tests::cloud::{Cloud, Plan};
use berth_tests::net::TestNet;
use berth_tests::process::wait_until;
use berth_tests::skip;
use berth_tests::skip::missing_for_hosts;
use berth_tests::users::Users;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
/// Who was taken over, and whose guest it reaches for.
const TAKEN: usize = 0;
const VICTIM: usize = 1;

/// A host's id, secret and key, from its state directory.
fn identity(cloud: &Cloud, host: usize) -> (HostId, String, String) {
    let dir = cloud.dir().join(format!("simulated-{host}"));
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    (
        read("host-id").trim().parse().unwrap(),
        read("secret").trim().to_owned(),
        read("key.pem"),
    )
}

fn link(cloud: &Cloud, host_id: HostId, secret: &str, key: &str) -> HttpsLink {
    let ca = fs::read(cloud.ca()).unwrap();
    let credentials = Credentials {
        host_id,
        secret: secret.to_owned(),
        key: HostKey::from_pem(key).unwrap(),
    };
    let clock = Arc::new(SystemClock::default());
    HttpsLink::new(cloud.base_url(0), &ca, credentials, clock).unwrap()
}

fn sql(cloud: &Cloud, sql: &str) -> String {
    let postgres = cloud.postgres.as_ref().unwrap();
    postgres.query("berth", sql).unwrap().trim().to_owned()
}

/// Until every message for the controllers is dealt with.
fn wait_for_silence(cloud: &Cloud) {
    let quiet = || {
        let rows = cloud.rabbit.ctl(&["list_queues", "name", "messages"])?;
        let busy = rows.lines().any(|row| {
            let ours = row.starts_with("controller.") || row.starts_with("dead-letters");
            ours && !row.ends_with("\t0")
        });
        Ok((!busy).then_some(()))
    };
    assert!(wait_until(PATIENCE, quiet).unwrap().is_some());
}

/// Publishes as the host that was taken over, in whatever way it likes.
struct Forger {
    url: String,
    user: String,
    secret: String,
}

impl Forger {
    async fn put(
        &self,
        (exchange, key): (&str, &str),
        payload: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<()> {
        let mut uri: lapin::uri::AMQPUri = self.url.parse().unwrap();
        uri.authority.userinfo.username.clone_from(&self.user);
        uri.authority.userinfo.password.clone_from(&self.secret);
        let properties_of = ConnectionProperties::default();
        let connection = Connection::connect_uri(uri, properties_of).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sent = channel.basic_publish(exchange.into(), key.into(), options, payload, properties);
        let confirmed = sent.await?.await?;
        assert!(confirmed.is_ack(), "{confirmed:?}");
        Ok(())
    }
}

fn result(command: &Envelope, outcome: Outcome) -> Vec<u8> {
    let result = CommandResult {
        message_id: command.message_id,
        operation_id: command.operation_id,
        step: command.step.clone(),
        attempt: command.attempt,
        host_id: command.host_id,
        host_epoch: command.host_epoch,
        vmm_id: command.vmm_id,
        sequence: command.sequence,
        request_id: command.request_id.clone(),
        outcome,
    };
    serde_json::to_vec(&result).unwrap()
}

#[test]
fn one_host_cannot_answer_command_or_report_for_another() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let net = TestNet::new().unwrap();
    let plan = Plan {
        controllers: 1,
        postgres: true,
        emulated_hosts: 0,
        simulated_hosts: 2,
    };
    let mut cloud = Cloud::start(&net, plan).unwrap();
    let users = Users::furnish(&cloud).unwrap();
    let server = users.create(0, "victims", VICTIM).unwrap();
    users.until(&cloud, &server, Some("ACTIVE"));
    let console = json!({"os-getConsoleOutput": {}});
    // With accounts of their own, hosts also answer questions.
    users.ask(0, &console, &server).unwrap();

    // An order that the victim has not answered, and that the other knows every word of.
    cloud.agents[VICTIM].kill9().unwrap();
    users.ask(0, &json!({"os-stop": null}), &server).unwrap();
    let order = format!(
        "SELECT b.envelope FROM outbox b JOIN operations o ON o.id = b.operation_id \
         WHERE o.instance_id = '{server}' AND o.kind = 'stop' AND b.sends > 0"
    );
    let command = || Ok(serde_json::from_str::<Envelope>(&sql(&cloud, &order)).ok());
    let command = wait_until(PATIENCE, command).unwrap().unwrap();
    assert_eq!(command.host_id, identity(&cloud, VICTIM).0);

    net.block_on(forge(&cloud, &command)).unwrap();
    wait_for_silence(&cloud);
    let state = format!(
        "SELECT state, progress FROM operations WHERE id = '{}'",
        command.operation_id
    );
    let state = sql(&cloud, &state);
    assert!(state.starts_with("running"), "{state}");
    assert!(!state.contains("forged"), "{state}");
    let vm_state = sql(
        &cloud,
        &format!("SELECT vm_state FROM instances WHERE id = '{server}'"),
    );
    assert_eq!(vm_state, "active");

    // The victim itself is believed.
    cloud.agents[VICTIM].start(&[]).unwrap();
    users.until(&cloud, &server, Some("SHUTOFF"));
    users.ask(0, &Value::Null, &server).unwrap();
    users.until(&cloud, &server, None);
    cloud.audit().unwrap();
}

async fn forge(cloud: &Cloud, command: &Envelope) {
    let (taken, secret, key) = identity(cloud, TAKEN);
    let victim = command.host_id;
    let own = link(cloud, taken, &secret, &key);
    let account = own
        .broker(&BrokerRequest::default())
        .await
        .unwrap()
        .account
        .unwrap();
    assert_eq!(account.user, taken.to_string());
    let forger = Forger {
        url: cloud.rabbit.url(),
        user: account.user,
        secret: account.secret,
    };
    let id = |properties: BasicProperties| {
        properties.with_message_id(command.message_id.to_string().into())
    };
    let named = |user: HostId| id(BasicProperties::default().with_user_id(user.to_string().into()));
    let nameless = || id(BasicProperties::default());
    let done = result(command, Outcome::done(VmmState::Stopped, 1_000_000));
    let progress = Outcome::Progress {
        doing: "forged".into(),
        percent: Some(1),
    };
    let progress = result(command, progress);
    let newer = json!({"message_id": command.message_id, "outcome": {"outcome": "forged"}});
    let newer = serde_json::to_vec(&newer).unwrap();
    let results = ("results", "controller.results");

    // With its own name or none, in every kind of words; nonsense ends among the dead letters.
    for payload in [&done, &progress, &newer, &b"nonsense".to_vec()] {
        for properties in [named(taken), nameless()] {
            forger.put(results, payload, properties).await.unwrap();
        }
    }
    let telemetry = Telemetry::Progress {
        host_id: victim,
        operation_id: command.operation_id,
        doing: "forged".into(),
        percent: None,
        bytes: None,
    };
    let telemetry = serde_json::to_vec(&telemetry).unwrap();
    for properties in [named(taken), nameless()] {
        let to = ("results", "controller.telemetry");
        forger.put(to, &telemetry, properties).await.unwrap();
    }
    // With the victim's name, or to the victim: the broker refuses.
    let envelope = serde_json::to_vec(command).unwrap();
    let queue = format!("agent.{victim}");
    assert!(forger.put(results, &done, named(victim)).await.is_err());
    assert!(
        forger
            .put(("", &queue), &envelope, named(taken))
            .await
            .is_err()
    );
    let as_victim = Forger {
        user: victim.to_string(),
        url: forger.url.clone(),
        secret: forger.secret.clone(),
    };
    assert!(as_victim.put(results, &done, named(victim)).await.is_err());

    // Over HTTPS: the victim's name with its own secret, and what the victim's guest does.
    let refused = |answer: &LinkError| {
        matches!(
            answer,
            LinkError::Refused {
                status: 401 | 403,
                ..
            }
        )
    };
    let pretender = link(cloud, victim, &secret, &key);
    // And with the victim's secret, that it found somewhere, but not the victim's key.
    let (_, victims_secret, _) = identity(cloud, VICTIM);
    let thief = link(cloud, victim, &victims_secret, &key);
    let answer = thief.broker(&BrokerRequest::default()).await.unwrap_err();
    assert!(
        matches!(answer, LinkError::Refused { status: 409, .. }),
        "{answer}"
    );
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder()
        .danger_accept_invalid_certs(true)
        .build();
    let url = format!("{}/agent/v1/networks", cloud.base_url(0));
    let call = client.unwrap().get(url).bearer_auth(&victims_secret);
    let answer = call.header("X-Berth-Host", victim.to_string()).send().await;
    assert_eq!(answer.unwrap().status(), 401);
    let answer = pretender
        .broker(&BrokerRequest::default())
        .await
        .unwrap_err();
    assert!(refused(&answer), "{answer}");
    let mut report = SyncRequest {
        host_id: victim,
        hostname: "simulated-1".into(),
        address: String::new(),
        version: String::new(),
        starting: false,
        start: None,
        timeline: None,
        numbers: None,
        refusal: None,
        guests: vec![],
        knows_accounts: true,
        epoch: 0,
        lineage: None,
        lineage_counter: 0,
        capacity: Capacity::default(),
        observations: vec![Observation {
            vmm_id: command.vmm_id,
            observation: 1_000_000,
            state: VmmState::Crashed,
            error: Some("forged".into()),
        }],
    };
    for link in [&own, &pretender] {
        let answer = link.sync(report.clone()).await.unwrap_err();
        assert!(refused(&answer), "{answer}");
    }
    // In its own name it may say so: it is a guest that nobody knows there, until it says otherwise.
    report.host_id = taken;
    for state in [VmmState::Crashed, VmmState::Deleted] {
        report.observations[0].state = state;
        report.observations[0].observation += 1;
        own.sync(report.clone()).await.unwrap();
    }
}
