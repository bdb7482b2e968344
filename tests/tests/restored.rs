//! A database that was restored from a backup, under a running cloud (PROTOCOL.md, rule 5): hosts that
//! know more refuse it, however long that takes and whatever starts again; nothing is removed; and when
//! an operator accepts it, what is ordered then is carried out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use berth_tests::cloud::{Cloud, Plan};
use berth_tests::net::TestNet;
use berth_tests::process::{self, wait_until};
use berth_tests::skip;
use berth_tests::skip::missing_for_hosts;
use berth_tests::users::Users;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);

fn sql(cloud: &Cloud, database: &str, sql: &str) -> String {
    let postgres = cloud.postgres.as_ref().unwrap();
    postgres.query(database, sql).unwrap().trim().to_owned()
}

/// `berth-controller` with these arguments: whether it ended well, and what it said.
fn ask(cloud: &Cloud, arguments: &[&str]) -> (bool, String) {
    let controller = &cloud.controllers[0];
    let mut command = Command::new(&controller.program);
    command.arg("--config").arg(&controller.config);
    command.args(arguments);
    let output = process::run(command, PATIENCE).unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Until `lineage show` says this of every host.
fn until_all(cloud: &Cloud, says: &str) {
    let mut last = String::new();
    let reached = wait_until(PATIENCE, || {
        last = ask(cloud, &["lineage", "show"]).1;
        let hosts: Vec<_> = last
            .lines()
            .filter(|line| line.starts_with("simulated-"))
            .collect();
        let all = hosts.len() == 2 && hosts.iter().all(|host| host.contains(says));
        Ok(all.then_some(()))
    });
    assert!(
        reached.unwrap().is_some(),
        "not all {says}:\n{last}\n{}",
        cloud.explain()
    );
}

/// Copies a database of the stopped cloud.
fn copy(cloud: &Cloud, from: &str, to: &str) {
    sql(
        cloud,
        "postgres",
        &format!("DROP DATABASE IF EXISTS {to} WITH (FORCE)"),
    );
    sql(
        cloud,
        "postgres",
        &format!("CREATE DATABASE {to} TEMPLATE {from}"),
    );
}

fn vmm_of(cloud: &Cloud, server: &str) -> String {
    sql(
        cloud,
        "berth",
        &format!("SELECT id FROM vmms WHERE instance_id = '{server}'"),
    )
}

/// The host's file of a guest, if it has the guest.
fn guest(cloud: &Cloud, host: usize, vmm: &str) -> Option<Value> {
    let path = cloud
        .dir()
        .join(format!("simulated-{host}/simulated/{vmm}.json"));
    fs::read(path)
        .ok()
        .map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// The files of images, made older than any sweep spares.
fn image_files(cloud: &Cloud) -> Vec<PathBuf> {
    let directory = cloud.dir().join("images");
    let old = SystemTime::now() - Duration::from_secs(2 * 3600);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    for file in &files {
        fs::File::open(file).unwrap().set_modified(old).unwrap();
    }
    files.sort();
    files
}

#[test]
fn hosts_refuse_a_restored_database_until_it_is_accepted_and_obey_it_then() {
    if let Some(missing) = missing_for_hosts() {
        skip!("{missing}");
    }
    let net = TestNet::new().unwrap();
    let plan = Plan {
        controllers: 1,
        simulated_hosts: 2,
        postgres: true,
        emulated_hosts: 0,
    };
    let mut cloud = Cloud::start(&net, plan).unwrap();
    let users = Users::furnish(&cloud).unwrap();
    let make = |cloud: &Cloud, name: &str, host: usize| {
        let id = users.create(0, name, host).unwrap();
        users.until(cloud, &id, Some("ACTIVE"));
        id
    };
    let (kept, gone) = (make(&cloud, "kept", 0), make(&cloud, "gone", 0));
    let elsewhere = make(&cloud, "elsewhere", 1);
    until_all(&cloud, "obeys it");
    let (accepted, why) = ask(&cloud, &["lineage", "accept"]);
    assert!(!accepted && why.contains("nothing to accept"), "{why}");
    cloud.controllers[0].kill9().unwrap();
    copy(&cloud, "berth", "backup");

    // What the backup does not know.
    cloud.controllers[0].start(&[]).unwrap();
    let later = retried(|| users.create(0, "later", 0));
    users.until(&cloud, &later, Some("ACTIVE"));
    let [gone_vmm, later_vmm] = [&gone, &later].map(|id| vmm_of(&cloud, id));
    users.ask(0, &Value::Null, &gone).unwrap();
    users.until(&cloud, &gone, None);
    for (action, status) in [("os-stop", "SHUTOFF"), ("os-start", "ACTIVE")].repeat(2) {
        users.ask(0, &json!({action: null}), &kept).unwrap();
        users.until(&cloud, &kept, Some(status));
    }
    until_all(&cloud, "obeys it");
    users.image("of the lost future").unwrap();
    cloud.controllers[0].kill9().unwrap();
    let images = image_files(&cloud);
    copy(&cloud, "backup", "berth");
    cloud.controllers[0].start(&[]).unwrap();
    until_all(&cloud, "refuses it");

    // The guest that it does not know keeps its address, whatever is asked for.
    let held = "SELECT COUNT(*) FROM ports WHERE device_owner = 'berth:stray'";
    let is_held = wait_until(PATIENCE, || {
        Ok((sql(&cloud, "berth", held) == "1").then_some(()))
    });
    assert!(is_held.unwrap().is_some(), "{}", cloud.explain());

    // Time and starts cure nothing. What users ask for meanwhile waits.
    let asked = retried(|| users.create(0, "asked", 0));
    for _ in 0..2 {
        let forgotten = "UPDATE refusals SET why = 'told before'";
        sql(&cloud, "berth", forgotten);
        for service in cloud.controllers.iter_mut().chain(&mut cloud.agents) {
            service.kill9().unwrap();
            service.start(&[]).unwrap();
        }
        until_all(&cloud, "refuses it: this");
    }
    assert_eq!(image_files(&cloud), images);
    let runs = |vmm: &str| guest(&cloud, 0, vmm).is_some_and(|guest| guest["process"] == "Running");
    assert!(runs(&later_vmm) && runs(&vmm_of(&cloud, &kept)));

    let told = wait_until(PATIENCE, || {
        let (accepted, said) = ask(&cloud, &["lineage", "accept"]);
        Ok(accepted.then_some(said))
    });
    let said = told.unwrap().expect("the hosts have said what they have");
    assert!(said.contains(&format!("lost: {gone_vmm}")), "{said}");
    assert!(said.contains(&format!("stray: {later_vmm}")), "{said}");
    assert_eq!(
        said.matches("lost:").count() + said.matches("stray:").count(),
        2,
        "{said}"
    );
    until_all(&cloud, "obeys it");
    assert!(ask(&cloud, &["lineage", "show"]).0);

    // What was asked for meanwhile is done, and what is asked for now is.
    users.until(&cloud, &asked, Some("ACTIVE"));
    for id in [&kept, &elsewhere] {
        users.ask(0, &json!({"os-stop": null}), id).unwrap();
        users.until(&cloud, id, Some("SHUTOFF"));
    }
    // Its host does not have it; what nobody knows is left alone, and no image was touched.
    users.until(&cloud, &gone, Some("ERROR"));
    assert!(guest(&cloud, 0, &later_vmm).is_some_and(|guest| guest["process"] == "Running"));
    let strays = sql(&cloud, "berth", "SELECT vmm_id FROM strays");
    assert_eq!(strays, later_vmm);
    assert_eq!(image_files(&cloud), images);

    // What it has is held for it, and an operator makes a server of it again.
    let held = addresses(&cloud, &format!("p.device_id = '{later}'"));
    assert!(!held.is_empty());
    let other = users.create(0, "other", 0).unwrap();
    users.until(&cloud, &other, Some("ACTIVE"));
    assert_ne!(
        addresses(&cloud, &format!("p.instance_id = '{other}'")),
        held
    );
    let claims = format!("SELECT COUNT(*) FROM claims WHERE vmm_id = '{later_vmm}'");
    assert_eq!(sql(&cloud, "berth", &claims), "1");
    let (listed, said) = ask(&cloud, &["stray", "list"]);
    assert!(
        listed && said.contains(&later) && said.contains("\"later\""),
        "{said}"
    );
    let (adopted, said) = ask(&cloud, &["stray", "adopt", &later_vmm]);
    assert!(adopted && said.contains(&later), "{said}");
    let (again, why) = ask(&cloud, &["stray", "adopt", &later_vmm]);
    assert!(!again && why.contains("is no stray"), "{why}");
    users.until(&cloud, &later, Some("ACTIVE"));
    assert_eq!(
        addresses(&cloud, &format!("p.instance_id = '{later}'")),
        held
    );
    cloud.audit().unwrap();
    for (action, status) in [("os-stop", "SHUTOFF"), ("os-start", "ACTIVE")] {
        users.ask(0, &json!({action: null}), &later).unwrap();
        users.until(&cloud, &later, Some(status));
    }
    for id in [&kept, &elsewhere, &gone, &asked, &other, &later] {
        users.ask(0, &Value::Null, id).unwrap();
        users.until(&cloud, id, None);
    }
    assert_eq!(guest(&cloud, 0, &later_vmm), None);
    cloud.audit().unwrap();
    assert_eq!(sql(&cloud, "berth", "SELECT COUNT(*) FROM ports"), "0");
}

/// The places of ports' addresses in their subnets.
fn addresses(cloud: &Cloud, which: &str) -> String {
    let places = format!(
        "SELECT a.position FROM ports p JOIN address_allocations a ON a.holder = p.id WHERE {which}"
    );
    sql(cloud, "berth", &places)
}

/// A controller that was just started answers soon.
fn retried(ask: impl Fn() -> anyhow::Result<String>) -> String {
    let mut last = None;
    let done = wait_until(PATIENCE, || match ask() {
        Ok(id) => Ok(Some(id)),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    done.unwrap().unwrap_or_else(|| panic!("{last:?}"))
}
