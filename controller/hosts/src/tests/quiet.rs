//! A report without news is answered as folding it in would, and with news it is not.

use super::restored::{begins, change, folded, told_guest, usual};
use super::*;
use crate::quiet;
use berth_rpc_types::link::{HostNumbers, Refusal};

/// A host whose agent has been told everything, and the report that it goes on to send.
async fn steady() -> (AppState, SyncRequest) {
    let app = cloud().await;
    let timeline = begins(&app).await;
    change(&app, "UPDATE host_numbers SET last = 4").await;
    let first = usual(&app, |_| {}).await;
    folded(&app, &noting(true), &first).await;
    let request = SyncRequest {
        starting: false,
        timeline: Some(timeline),
        epoch: 7,
        numbers: Some(HostNumbers {
            last: 4,
            watermark: 4,
        }),
        ..first
    };
    // It has not been seen to obey yet.
    assert_eq!(quiet::answer(&app.store, &request).await.unwrap(), None);
    folded(&app, &noting(true), &request).await;
    (app, request)
}

async fn answered(app: &AppState, request: &SyncRequest) -> Option<SyncReply> {
    quiet::answer(&app.store, request).await.unwrap()
}

#[tokio::test]
async fn a_report_without_news_is_answered_as_folding_it_would() {
    let (app, request) = steady().await;
    let quick = answered(&app, &request).await.unwrap();
    assert_eq!(quick, folded(&app, &noting(true), &request).await);
    // What changes without the host's doing is in it.
    change(&app, "UPDATE hosts SET network_revision = 9, epoch = 8").await;
    change(&app, "UPDATE host_numbers SET last = 6").await;
    change(
        &app,
        "UPDATE meta SET value = '77' WHERE name = 'lineage_counter'",
    )
    .await;
    let quick = answered(&app, &request).await.unwrap();
    assert_eq!(
        (quick.network_revision, quick.epoch, quick.lineage_counter),
        (9, 8, 77)
    );
    assert_eq!(quick, folded(&app, &noting(true), &request).await);
}

#[tokio::test]
async fn a_report_with_news_is_folded_in() {
    let (app, request) = steady().await;
    let but = |change: fn(&mut SyncRequest)| {
        let mut request = request.clone();
        change(&mut request);
        request
    };
    for (what, request) in [
        ("a start", but(|r| r.starting = true)),
        ("another start", but(|r| r.start = start(2, Some(1), "a"))),
        ("another boot", but(|r| r.start = start(1, None, "b"))),
        ("an agent without starts", but(|r| r.start = None)),
        (
            "an observation",
            but(|r| r.observations = vec![seen(KNOWN, 6)]),
        ),
        (
            "a refusal",
            but(|r| {
                r.refusal = Some(Refusal {
                    timeline: None,
                    records: vec![],
                })
            }),
        ),
        ("another lineage", but(|r| r.lineage = Some("other".into()))),
        ("no lineage", but(|r| r.lineage = None)),
        (
            "an unknown timeline",
            but(|r| r.timeline = Some(Uuid::from_u128(9))),
        ),
        ("no timeline", but(|r| r.timeline = None)),
        ("another capacity", but(|r| r.capacity.vcpus = 99)),
        ("another address", but(|r| r.address = "10.0.0.9".into())),
        ("another version", but(|r| r.version = "2".into())),
    ] {
        assert_eq!(answered(&app, &request).await, None, "{what}");
    }
    let guest = but(|r| r.guests = vec![told_guest(UNKNOWN)]);
    assert_eq!(answered(&app, &guest).await, None, "a stray's account");
}

#[tokio::test]
async fn a_host_for_which_there_is_news_has_it_folded() {
    for (what, sql) in [
        ("a lost guest", "UPDATE vmms SET lost_at = 1"),
        (
            "a stray",
            "INSERT INTO strays SELECT 'v', id, 'running', 1 FROM hosts",
        ),
        (
            "a refusal",
            "INSERT INTO refusals (host_id, why, counter, epoch, last, watermark, told_at) \
             SELECT id, 'w', 1, 1, 1, 1, 1 FROM hosts",
        ),
        (
            "a command without an answer",
            "INSERT INTO outbox (message_id, operation_id, step, attempt, host_id, vmm_id, sequence, \
             envelope, sends, created_at, host_number) SELECT 'm', 'o', 's', 1, id, 'v', 1, '{}', 1, 1, 4 \
             FROM hosts",
        ),
        ("a removed host", "DELETE FROM hosts"),
        (
            "another database",
            "UPDATE meta SET value = 'x' WHERE name = 'lineage'",
        ),
    ] {
        let (app, request) = steady().await;
        assert!(answered(&app, &request).await.is_some());
        change(&app, sql).await;
        assert_eq!(answered(&app, &request).await, None, "{what}");
    }
    // A controller starts, and with it a timeline.
    let (app, request) = steady().await;
    begins(&app).await;
    assert_eq!(answered(&app, &request).await, None);
}

#[tokio::test]
async fn who_was_heard_is_written_down_and_brings_nobody_back() {
    let (app, _) = steady().await;
    change(&app, "UPDATE beats SET beat = 50").await;
    let of = async |sql: &'static str| {
        let row = app.store.query_opt::<(i64,)>(sql, &[]).await;
        row.unwrap().map(|(n,)| n)
    };
    let heard = "SELECT beat FROM host_beats";
    assert_eq!(of(heard).await, Some(1));
    app.heard.note(HOST);
    app.heard.note(HOST);
    app.heard.note(HostId::from_u128(99));
    app.heard.write_down(&app.store, 70_000).await.unwrap();
    assert_eq!(of(heard).await, Some(50));
    // What a controller of the release before looks at, and that it is this one's writing.
    assert_eq!(of("SELECT last_seen_at FROM hosts").await, Some(70_000));
    assert_eq!(of("SELECT copied FROM host_beats").await, Some(70_000));
    app.heard.note(HOST);
    app.heard.write_down(&app.store, 71_000).await.unwrap();
    assert_eq!(of("SELECT last_seen_at FROM hosts").await, Some(70_000));
    assert_eq!(of("SELECT seen_at FROM host_beats").await, Some(71_000));
    // Nothing was heard since.
    change(&app, "UPDATE beats SET beat = 60").await;
    app.heard.write_down(&app.store, 72_000).await.unwrap();
    assert_eq!(of(heard).await, Some(50));
    assert_eq!(of("SELECT COUNT(*) AS n FROM host_beats").await, Some(1));
}
