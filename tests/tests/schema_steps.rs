//! The database of an earlier release, of this one, and of a later one, on both databases.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use berth_controller::core::params;
use berth_controller::core::store::{Store, StoreError};
use berth_tests::postgres::PrivatePostgres;
use futures::future::join_all;

async fn run(store: &Store, sql: &'static str) {
    let done = store.tx::<_, StoreError, _>(|tx| Box::pin(tx.execute(sql, params![])));
    done.await.unwrap();
}

async fn number(store: &Store, sql: &'static str) -> i64 {
    let row = store.tx::<_, StoreError, _>(|tx| Box::pin(tx.query_opt::<(i64,)>(sql, params![])));
    row.await.unwrap().unwrap().0
}

const STEPS: &str = "SELECT COUNT(*) AS number FROM schema_steps";
const NEWEST: &str = "SELECT MAX(step) AS number FROM schema_steps";

/// Turns the database of this release into that of the one before it, with a guest in it.
async fn age(store: &Store) {
    for sql in [
        "DROP TABLE schema_steps",
        "DROP TABLE quota_additions",
        "DROP INDEX hosts_zone",
        "DROP TABLE virtual_sizes",
        "DROP TABLE fences",
        "DROP INDEX outbox_command",
        "ALTER TABLE outbox DROP COLUMN command",
        "ALTER TABLE outbox DROP COLUMN subject_kind",
        "CREATE UNIQUE INDEX outbox_step ON outbox (operation_id, step, attempt)",
        "DROP TABLE host_numbers",
        "DROP TABLE sequences",
        "DROP TABLE operation_subjects",
        "DROP TABLE holds",
        "DROP TABLE timers",
        "DROP TABLE children",
        "DROP TABLE port_bindings",
        "DROP TABLE boot_sources",
        "DROP TABLE retired_images",
        "DROP TABLE host_accounts",
        "DROP TABLE host_keys",
        "DROP TABLE agent_starts",
        "DROP TABLE retired_hosts",
        "DROP TABLE timelines",
        "DROP TABLE host_timelines",
        "DROP TABLE refusals",
        "DROP TABLE lineages",
        "DROP TABLE stray_guests",
        "DROP INDEX strays_host",
        "DROP TABLE network_tags",
        "DROP TABLE image_members",
        "DROP TABLE groups",
        "DROP TABLE identity_extra",
        "DROP TABLE group_members",
        "DROP TABLE wider_assignments",
        "DROP TABLE application_credentials",
        "DROP TABLE beats",
        "DROP TABLE host_beats",
        "DROP TABLE upload_beats",
        "DROP TABLE deleted_markers",
        "DROP INDEX instances_page",
        "DROP INDEX instances_all",
        "DROP INDEX ports_page",
        "DROP INDEX subnets_page",
        "DROP INDEX subnets_cidr",
        "DROP INDEX networks_shared",
        "DROP INDEX networks_external",
        "DROP INDEX security_group_rules_page",
        "DROP INDEX images_visibility",
        "DROP INDEX outbox_unsettled",
        "DROP INDEX claims_instance",
        "DROP INDEX vmms_lost",
        "DROP INDEX vmms_there",
        "DROP INDEX instances_quota",
        "DROP INDEX outbox_answered",
        "ALTER TABLE outbox DROP COLUMN host_number",
        "ALTER TABLE vmms DROP COLUMN lost_epoch",
        "ALTER TABLE vmms DROP COLUMN removed_at",
        "INSERT INTO meta (name, value) VALUES ('schema', 'the digest that was kept then')",
        "INSERT INTO vmms (id, instance_id, host_id, role, state, sequence, observation, \
         created_at) VALUES ('v', 'i', 'h', 'active', 'running', 1, 1, 1)",
    ] {
        run(store, sql).await;
    }
}

/// After the upgrade: every step is there once, and so is the guest.
async fn is_up_to_date(store: &Store) {
    let kept = "SELECT COUNT(*) AS number FROM vmms \
                WHERE id = 'v' AND state = 'running' AND lost_epoch IS NULL";
    assert_eq!(number(store, kept).await, 1);
    assert_eq!(
        number(store, "SELECT COUNT(*) AS number FROM fences").await,
        0
    );
    let newest = number(store, NEWEST).await;
    assert!(newest >= 20);
    assert_eq!(number(store, STEPS).await, newest);
}

async fn is_refused(url: &str) {
    let Err(error) = Store::connect(url).await else {
        panic!("a newer database was opened");
    };
    assert!(matches!(error, StoreError::Newer { database: 99, .. }));
    let said = error.to_string();
    assert!(said.contains("schema step 99"), "{said}");
    assert!(said.contains("newer berth-controller"), "{said}");
}

#[tokio::test]
async fn an_earlier_database_is_brought_up_to_date_and_a_later_one_refused_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("berth.db").display());
    let store = Store::connect(&url).await.unwrap();
    age(&store).await;
    drop(store);
    let store = Store::connect(&url).await.unwrap();
    is_up_to_date(&store).await;
    drop(store);
    // Nothing is left to do, and nothing is done again.
    let store = Store::connect(&url).await.unwrap();
    is_up_to_date(&store).await;
    run(
        &store,
        "INSERT INTO schema_steps VALUES (99, 'of tomorrow')",
    )
    .await;
    drop(store);
    is_refused(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_bring_an_earlier_database_up_to_date_once_on_postgresql() {
    let postgres = PrivatePostgres::start().unwrap();
    let store = Store::connect(&postgres.url()).await.unwrap();
    age(&store).await;
    let url = postgres.url();
    let stores = join_all((0..4).map(|_| Store::connect(&url))).await;
    for other in &stores {
        is_up_to_date(other.as_ref().unwrap()).await;
    }
    run(
        &store,
        "INSERT INTO schema_steps VALUES (99, 'of tomorrow')",
    )
    .await;
    is_refused(&url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_controllers_make_a_new_database_at_once_on_postgresql() {
    let postgres = PrivatePostgres::start().unwrap();
    let url = postgres.url();
    let stores = join_all((0..4).map(|_| Store::connect(&url))).await;
    for store in &stores {
        let store = store.as_ref().unwrap();
        assert_eq!(number(store, STEPS).await, number(store, NEWEST).await);
    }
}
