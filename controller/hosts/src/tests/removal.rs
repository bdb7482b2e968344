//! A host that is removed leaves nothing behind that would be held against it, or for it.

use super::restored::{asks, asks_of, begins, change, told_guest};
use super::*;
use crate::removal::{self, RemovalError};
use berth_rpc_types::link::Refusal;

async fn remove(app: &AppState, observer: &Arc<Noting>) -> Result<(), RemovalError> {
    let removed = app.store.tx(|tx| {
        let observer = observer.clone();
        Box::pin(async move { removal::remove(tx, 1, &*observer, HOST).await })
    });
    removed.await
}

async fn count(app: &AppState, table: &'static str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    let counted = app.store.tx::<_, StoreError, _>(|tx| {
        let sql = sql.clone();
        Box::pin(async move { tx.query_opt::<(i64,)>(&sql, &[]).await })
    });
    counted.await.unwrap().unwrap().0
}

#[tokio::test]
async fn a_host_that_is_off_is_removed_in_spite_of_what_is_held_for_its_strays() {
    let (app, observer) = (cloud().await, noting(true));
    change(&app, "DELETE FROM vmms").await;
    for (observations, guests) in [
        (vec![seen(UNKNOWN, 1)], vec![]),
        (vec![], vec![told_guest(UNKNOWN)]),
    ] {
        asks_of(&app, &observer, |request| {
            (request.observations, request.guests) = (observations, guests);
        })
        .await;
    }
    // What the observer of compute does.
    let claimed = "INSERT INTO claims (vmm_id, instance_id, host_id, vcpus, memory_mib, disk_gib, \
                   created_at) SELECT vmm_id, 'i', host_id, 1, 1, 1, 1 FROM stray_guests";
    change(&app, claimed).await;
    let refused = remove(&app, &observer).await;
    assert!(matches!(refused, Err(RemovalError::HasStrays(_))));
    change(&app, "UPDATE hosts SET forced_down = 1").await;
    remove(&app, &observer).await.unwrap();
    assert_eq!(
        *observer.strays.lock().unwrap(),
        [(UNKNOWN, true), (UNKNOWN, false)]
    );
    for table in ["strays", "stray_guests", "agent_starts", "hosts"] {
        assert_eq!(count(&app, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_claim_that_is_no_strays_keeps_a_host() {
    let (app, observer) = (cloud().await, noting(true));
    change(&app, "DELETE FROM vmms").await;
    change(&app, "UPDATE hosts SET forced_down = 1").await;
    let claimed = "INSERT INTO claims (vmm_id, instance_id, host_id, vcpus, memory_mib, disk_gib, \
                   created_at) SELECT 'v', 'i', id, 1, 1, 1, 1 FROM hosts";
    change(&app, claimed).await;
    let refused = remove(&app, &observer).await;
    assert!(matches!(refused, Err(RemovalError::InUse(_))));
}

#[tokio::test]
async fn a_host_that_refused_and_was_removed_is_not_held_to_refuse_when_it_joins_again() {
    let (app, observer) = (cloud().await, noting(true));
    change(&app, "DELETE FROM vmms").await;
    let obeyed = begins(&app).await;
    asks(&app, |request| request.timeline = Some(obeyed)).await;
    let reply = asks(&app, |request| {
        request.timeline = Some(Uuid::from_u128(77));
        request.refusal = Some(Refusal {
            timeline: Some(obeyed),
            records: vec![],
        });
    })
    .await;
    assert!(reply.refused.is_some());
    assert_eq!(count(&app, "refusals").await, 1);
    remove(&app, &observer).await.unwrap();
    for table in ["refusals", "host_timelines", "agent_starts"] {
        assert_eq!(count(&app, table).await, 0, "{table}");
    }
}
