//! How many claims a second the database takes, with nothing else to do.

use super::seed::Furnished;
use anyhow::Context as _;
use berth_controller::compute::{instances, placement};
use berth_controller::core::store::{Store, StoreError};
use berth_controller::core::{ControlSettings, Env, params};
use berth_rpc::clock::{SystemClock, SystemRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Claims under way at once: what one controller's driver has, twice.
const AT_ONCE: usize = 16;

/// Claims as many hosts as can be for one server, and gives all of them back.
///
/// # Errors
/// The database's, and a cloud that is full.
pub async fn a_second(
    store: &Store,
    furnished: &Furnished,
    stretch: Duration,
) -> anyhow::Result<f64> {
    let env = Env {
        clock: Arc::new(SystemClock::default()),
        rng: Arc::new(SystemRng),
        control: Arc::new(ControlSettings::default()),
        hosts: Arc::default(),
    };
    let id = furnished.template.parse()?;
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (store, env, done) = (store.clone(), env.clone(), Arc::clone(&done));
        all.spawn(async move {
            while began.elapsed() < stretch {
                let claimed = store
                    .tx::<_, placement::PlacementError, _>(|tx| {
                        let env = env.clone();
                        Box::pin(async move {
                            let Some(instance) = instances::load(tx, id).await? else {
                                return Err(StoreError::Contended(0).into());
                            };
                            placement::select_and_claim(tx, &env, &instance, &[]).await
                        })
                    })
                    .await;
                match claimed {
                    Ok(_) => {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    // A driver looks again later, and so does this.
                    Err(placement::PlacementError::Store(StoreError::Contended(_))) => {}
                    Err(error) => return Err(error).context("a claim"),
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    let took = began.elapsed();
    store
        .tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                for (table, key) in [("claims", "vmm_id"), ("vmms", "id")] {
                    let sql = format!(
                        "DELETE FROM {table} WHERE instance_id = $1 AND {key} <> \
                         (SELECT active_vmm_id FROM instances WHERE id = $1)"
                    );
                    tx.execute(&sql, params![id]).await?;
                }
                Ok(())
            })
        })
        .await?;
    Ok(done.load(Ordering::Relaxed) as f64 / took.as_secs_f64())
}
