//! What a host's account reaches at a real RabbitMQ, and what it does not: each attempt of one host
//! at another's queues, at the controllers' and at its own rights, with a token of the controllers'
//! making.

use crate::world::{RabbitWorld, World as _};
use berth_controller_core::BrokerAccounts;
use berth_rpc::{
    Account, Accounts, Address, ConsumeOptions, Delivery, ReadRequest, RpcError, Sender, Transport,
};
use berth_rpc_types::HostId;
use bytes::Bytes;
use futures::future::BoxFuture;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: HostId = HostId::from_u128(1);
const OTHER: HostId = HostId::from_u128(2);

/// Stands for the controller's HTTPS: signs tokens, and makes the host's queues.
struct Desk {
    accounts: BrokerAccounts,
    controller: Arc<dyn Transport>,
    host: HostId,
    signed: AtomicUsize,
}

impl Desk {
    fn new(world: &RabbitWorld, host: HostId, lifetime_s: u32) -> Arc<Self> {
        let key = world.host_key();
        Arc::new(Self {
            accounts: BrokerAccounts::load(&key, &world.urls(), lifetime_s).unwrap(),
            controller: world.client(),
            host,
            signed: AtomicUsize::new(0),
        })
    }

    fn token(&self) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap().as_millis()).unwrap();
        self.accounts.token(self.host, now).unwrap()
    }
}

impl Accounts for Desk {
    fn account(&self) -> BoxFuture<'_, Result<Option<Account>, String>> {
        Box::pin(async move {
            self.restore(false).await?;
            self.signed.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Account {
                user: self.host.to_string(),
                secret: self.token(),
                renew_after: Duration::from_secs(u64::from(self.accounts.lifetime_s)) / 2,
            }))
        })
    }

    fn restore(&self, silent: bool) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            for address in [Address::Agent(self.host), Address::AgentReads(self.host)] {
                let made = match silent {
                    true => self.controller.restore(address).await,
                    false => self.controller.declare(address).await,
                };
                made.map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }
}

async fn delivered(controller: &dyn Transport, address: Address) -> Delivery {
    let options = ConsumeOptions { prefetch: 1 };
    let mut consumer = controller.consume(address, options).await.unwrap();
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let delivery = delivery.unwrap().unwrap();
    delivery.ack().await.unwrap();
    delivery
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_works_with_an_account_that_reaches_only_its_own() {
    crate::show_log();
    let Some(world) = RabbitWorld::start().await else {
        return;
    };
    world.enter("accounts");
    let controller = world.asking_client();
    for address in [Address::Results, Address::Telemetry, Address::DeadLetters] {
        controller.declare(address).await.unwrap();
    }
    let desk = Desk::new(&world, HOST, 3600);
    let agent = world.host_client(&desk);

    // Results carry their sender's name, telemetry too.
    for address in [Address::Results, Address::Telemetry] {
        agent
            .publish(address, "r", Bytes::from_static(b"r"))
            .await
            .unwrap();
        assert_eq!(
            delivered(&*controller, address).await.sender,
            Sender::Host(HOST)
        );
    }
    // Commands come, and one that is rejected dies in the host's own queue.
    let options = ConsumeOptions { prefetch: 1 };
    let mut commands = agent.consume(Address::Agent(HOST), options).await.unwrap();
    controller
        .publish(Address::Agent(HOST), "c", Bytes::from_static(b"c"))
        .await
        .unwrap();
    let command = tokio::time::timeout(PATIENCE, commands.next())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(command.sender, Sender::Other(_)),
        "{:?}",
        command.sender
    );
    command.reject().await.unwrap();
    let dead = delivered(&*controller, Address::DeadLetters).await;
    assert_eq!(
        dead.dead_letter_queue,
        Some(Address::Agent(HOST).to_string())
    );
    // Questions are answered.
    let mut questions = agent.serve_reads(Address::AgentReads(HOST)).await.unwrap();
    tokio::spawn(async move {
        while let Some(ReadRequest { payload, reply }) = questions.recv().await {
            reply([&payload[..], b"!"].concat().into()).await;
        }
    });
    for _ in 0..3 {
        let question = Bytes::from_static(b"?");
        let answer = controller
            .read(Address::AgentReads(HOST), question, PATIENCE)
            .await;
        assert_eq!(answer.unwrap(), "?!");
    }
    // What it does not reach is refused here already.
    for address in [
        Address::Agent(OTHER),
        Address::Agent(HOST),
        Address::DeadLetters,
    ] {
        let sent = agent.publish(address, "x", Bytes::new()).await;
        assert!(matches!(sent, Err(RpcError::Configuration(_))), "{sent:?}");
    }
    // Its queue is gone: it is made again, and the host's consumer is there again.
    world.delete_queue(Address::Agent(HOST)).await;
    let again = async {
        loop {
            let sent = controller
                .publish(Address::Agent(HOST), "d", Bytes::from_static(b"d"))
                .await;
            if sent.is_ok() {
                return commands.next().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert_eq!(
        tokio::time::timeout(PATIENCE, again).await.unwrap().payload,
        "d"
    );
    agent.close().await;
    controller.close().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_renewed_before_it_expires() {
    let Some(world) = RabbitWorld::start().await else {
        return;
    };
    world.enter("renewed");
    let controller = world.client();
    controller.declare(Address::Results).await.unwrap();
    let desk = Desk::new(&world, HOST, 2);
    let agent = world.host_client(&desk);
    let options = ConsumeOptions { prefetch: 100 };
    let mut results = controller.consume(Address::Results, options).await.unwrap();
    // Two connections ask for a first token each. More are renewals, and none fails in between:
    // the one channel would be closed, and the publish with it.
    let mut sent = 0;
    while desk.signed.load(Ordering::Relaxed) < 10 {
        let id = sent.to_string();
        agent
            .publish(Address::Results, &id, Bytes::new())
            .await
            .unwrap();
        let result = tokio::time::timeout(PATIENCE, results.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (result.message_id.as_str(), &result.sender),
            (&*id, &Sender::Host(HOST))
        );
        result.ack().await.unwrap();
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    agent.close().await;
    controller.close().await;
    world.stop().await;
}

/// A channel by a host's token, without our client's manners.
async fn raw(world: &RabbitWorld, desk: &Desk, user: &str) -> Channel {
    let mut uri: lapin::uri::AMQPUri = world.urls()[0].parse().unwrap();
    uri.authority.userinfo.username = user.into();
    uri.authority.userinfo.password = desk.token();
    let properties = ConnectionProperties::default();
    let connection = Connection::connect_uri(uri, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    channel
}

async fn put(
    channel: &Channel,
    exchange: &str,
    key: &str,
    properties: BasicProperties,
) -> lapin::Result<lapin::Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"forged", properties);
    sent.await?.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_reaches_for_more_is_refused_by_the_broker() {
    let Some(world) = RabbitWorld::start().await else {
        return;
    };
    world.enter("reach");
    let controller = world.client();
    for address in [
        Address::Results,
        Address::Telemetry,
        Address::DeadLetters,
        Address::Agent(OTHER),
        Address::AgentReads(OTHER),
    ] {
        controller.declare(address).await.unwrap();
    }
    let desk = Desk::new(&world, HOST, 3600);
    desk.restore(false).await.unwrap();
    let own = || BasicProperties::default().with_user_id(HOST.to_string().into());
    let (results, telemetry) = ("reach.controller.results", "reach.controller.telemetry");

    // Another's name, by the property or by the login.
    let as_other = || BasicProperties::default().with_user_id(OTHER.to_string().into());
    for login in [HOST, OTHER] {
        let channel = raw(&world, &desk, &login.to_string()).await;
        let sent = put(&channel, "reach.results", results, as_other()).await;
        assert!(sent.is_err(), "{login} as another: {sent:?}");
    }
    // Anywhere but to the controllers.
    let other = format!("reach.agent.{OTHER}");
    for (exchange, key) in [
        ("", &*other),
        ("", results),
        ("", "reach.dead-letters"),
        ("amq.direct", &*other),
        ("amq.topic", &*other),
    ] {
        let channel = raw(&world, &desk, &HOST.to_string()).await;
        let sent = put(&channel, exchange, key, own()).await;
        assert!(sent.is_err(), "to {key} by {exchange:?}: {sent:?}");
    }
    // Others' messages.
    for queue in [
        &*other,
        &format!("{other}.reads"),
        results,
        telemetry,
        "reach.dead-letters",
    ] {
        let channel = raw(&world, &desk, &HOST.to_string()).await;
        let got = channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await;
        assert!(got.is_err(), "from {queue}");
    }
    // Rights over queues and exchanges, its own too.
    let own_queue = format!("reach.agent.{HOST}");
    let rights: Vec<(&str, bool)> = vec![
        ("declare a queue", {
            let channel = raw(&world, &desk, &HOST.to_string()).await;
            let options = QueueDeclareOptions::default();
            let name = format!("{own_queue}.more");
            channel
                .queue_declare(name.into(), options, FieldTable::default())
                .await
                .is_ok()
        }),
        ("delete its queue", {
            let channel = raw(&world, &desk, &HOST.to_string()).await;
            let options = QueueDeleteOptions::default();
            channel
                .queue_delete(own_queue.as_str().into(), options)
                .await
                .is_ok()
        }),
        ("bind its queue to the results", {
            let channel = raw(&world, &desk, &HOST.to_string()).await;
            let (queue, exchange) = (own_queue.as_str().into(), "reach.results".into());
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(
                queue,
                exchange,
                results.into(),
                options,
                FieldTable::default(),
            );
            bound.await.is_ok()
        }),
        ("declare an exchange", {
            let channel = raw(&world, &desk, &HOST.to_string()).await;
            let options = ExchangeDeclareOptions::default();
            let kind = lapin::ExchangeKind::Fanout;
            let declared =
                channel.exchange_declare("reach.mine".into(), kind, options, FieldTable::default());
            declared.await.is_ok()
        }),
    ];
    for (what, could) in rights {
        assert!(!could, "a host could {what}");
    }
    // A death that it made up is not believed: the broker's own comes first.
    let channel = raw(&world, &desk, &HOST.to_string()).await;
    let mut death = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    death.insert("queue".into(), text(&other));
    death.insert("reason".into(), text("rejected"));
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    let mut headers = FieldTable::default();
    headers.insert("x-first-death-queue".into(), text(&other));
    headers.insert("x-first-death-reason".into(), text("rejected"));
    let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
    let sent = put(
        &channel,
        "reach.results",
        results,
        own().with_headers(headers),
    )
    .await;
    assert!(sent.is_ok(), "{sent:?}");
    let options = ConsumeOptions { prefetch: 1 };
    let mut consumer = controller.consume(Address::Results, options).await.unwrap();
    let result = tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .unwrap()
        .unwrap();
    result.reject().await.unwrap();
    let dead = delivered(&*controller, Address::DeadLetters).await;
    assert_eq!(dead.dead_letter_queue, Some(Address::Results.to_string()));
    assert_eq!(dead.sender, Sender::Host(HOST));
    controller.close().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_taken_only_from_the_host_that_was_asked() {
    let Some(world) = RabbitWorld::start().await else {
        return;
    };
    world.enter("answers");
    let controller = world.asking_client();
    let (asked, liar) = (
        Desk::new(&world, HOST, 3600),
        Desk::new(&world, OTHER, 3600),
    );
    asked.restore(false).await.unwrap();
    let (host, other) = (
        raw(&world, &asked, &HOST.to_string()).await,
        raw(&world, &liar, &OTHER.to_string()).await,
    );
    let address = Address::AgentReads(HOST);
    let read = controller.read(address, Bytes::from_static(b"?"), PATIENCE);
    let answered = async {
        let queue = format!("answers.{address}");
        let question = loop {
            let options = BasicGetOptions { no_ack: true };
            let got = host
                .basic_get(queue.as_str().into(), options)
                .await
                .unwrap();
            match got {
                Some(question) => break question.delivery,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        // The other knows everything about the question, and is faster.
        let headers = question.properties.headers().clone().unwrap();
        let Some(AMQPValue::LongString(answers)) = headers.inner().get("answers") else {
            panic!("{headers:?}");
        };
        let answers = answers.to_string();
        let id = question.properties.correlation_id().clone().unwrap();
        for (channel, user) in [(&other, OTHER), (&host, HOST)] {
            let properties = BasicProperties::default()
                .with_user_id(user.to_string().into())
                .with_correlation_id(id.clone());
            let exchange = "answers.results".into();
            let text = user.to_string();
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(
                exchange,
                answers.as_str().into(),
                options,
                text.as_bytes(),
                properties,
            );
            sent.await.unwrap().await.unwrap();
        }
    };
    let (answer, ()) = futures::join!(read, answered);
    assert_eq!(answer.unwrap(), HOST.to_string());
    controller.close().await;
    world.stop().await;
}
