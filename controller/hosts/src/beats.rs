//! Counts the cloud's clock on ([`berth_controller_core::beat`]).

use berth_controller_core::beat::{self, BEAT};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, params};
use tokio_util::sync::CancellationToken;

/// So many beats are between two looks for reports that controllers of the release before took.
const LOOK: i64 = 5;

/// So many beats are between two counts of all hosts, by which they are told how often to report.
const COUNT: u64 = 30;

/// Counts until `stop` is cancelled, and writes down at each beat who was heard.
pub async fn run(app: AppState, stop: CancellationToken) {
    let mut last = 0;
    for looks in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        if looks.is_multiple_of(COUNT)
            && let Err(error) = app.heard.count(&app.store).await
        {
            tracing::error!(%error, "hosts are not counted; trying again");
        }
        let written = app
            .heard
            .write_down(&app.store, app.clock.now_millis())
            .await;
        if let Err(error) = written {
            tracing::error!(%error, "who was heard is not written down; the next report says it again");
        }
        match app.store.tx(|tx| Box::pin(beat(tx, last))).await {
            Ok(beat) => last = beat,
            Err(error) => tracing::error!(%error, "the cloud's beat is not counted; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.clock.sleep(BEAT) => {}
        }
    }
    // What was heard since; a loss costs each host one report.
    drop(
        app.heard
            .write_down(&app.store, app.clock.now_millis())
            .await,
    );
}

/// One beat, if it is this controller's turn.
async fn beat(tx: &mut Tx, last: i64) -> Result<i64, StoreError> {
    let beat = beat::count_on(tx, last).await?;
    if last > 0 && beat > last && beat % LOOK == 0 {
        copy(tx, beat).await?;
    }
    Ok(beat)
}

/// Counts the reports that a controller of the release before took: it writes only `hosts.last_seen_at`.
/// To be removed with the release after this one.
async fn copy(tx: &mut Tx, beat: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO host_beats (host_id, beat, seen_at, copied) \
         SELECT h.id, $1, h.last_seen_at, h.last_seen_at FROM hosts h \
         LEFT JOIN host_beats b ON b.host_id = h.id \
         WHERE h.last_seen_at <> COALESCE(b.copied, 0) \
         ON CONFLICT (host_id) DO UPDATE SET beat = excluded.beat, seen_at = excluded.seen_at, \
         copied = excluded.copied",
        params![beat],
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_controller_core::store::Store;
    use berth_rpc_types::HostId;

    async fn run_sql(store: &Store, sql: &'static str) {
        let ran = store.tx::<_, StoreError, _>(|tx| Box::pin(tx.execute(sql, &[])));
        ran.await.unwrap();
    }

    async fn silent(store: &Store) -> i64 {
        let read = store.tx::<_, StoreError, _>(|tx| {
            let sql = format!("SELECT {} FROM hosts", beat::SEEN);
            Box::pin(async move { tx.query_opt::<(i64, i64)>(&sql, &[]).await })
        });
        read.await.unwrap().unwrap().0
    }

    #[tokio::test]
    async fn a_report_that_the_release_before_took_counts_once_whatever_its_clock_says() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let host = HostId::from_u128(1);
        let insert = "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, \
            availability_zone, enabled, forced_down, last_seen_at, agent_version, capacity, \
            generation, network_revision, created_at, updated_at) \
            VALUES ($1, 1, 'h', '', 'x', 1, 'nova', 1, 0, 0, '', '{}', 1, 1, 1, 1)";
        let inserted = store.tx::<_, StoreError, _>(|tx| {
            Box::pin(async move { tx.execute(insert, params![host]).await })
        });
        inserted.await.unwrap();
        let beats = async |from: i64, count: i64| {
            let mut last = from;
            for _ in 0..count {
                last = store.tx(|tx| Box::pin(beat(tx, last))).await.unwrap();
            }
            last
        };
        let last = beats(1, 9).await;
        assert_eq!(last, 10);
        assert!(silent(&store).await > 1_000_000, "it has never reported");
        // A clock far ahead, and then one far behind.
        run_sql(&store, "UPDATE hosts SET last_seen_at = 9000").await;
        assert_eq!(silent(&store).await, 0, "before it is counted, too");
        let last = beats(last, 5).await;
        assert_eq!(silent(&store).await, 0);
        let last = beats(last, 5).await;
        assert_eq!(silent(&store).await, 5);
        run_sql(&store, "UPDATE hosts SET last_seen_at = 10").await;
        beats(last, 5).await;
        assert_eq!(silent(&store).await, 0);
    }
}
