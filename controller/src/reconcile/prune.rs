//! What nobody asks for any more: answered commands of closed operations, dead join tokens, and
//! the rights to images of operations that are over.
//!
//! An answer that comes again after its command was pruned folds away as unknown.

use crate::api::AppState;
use crate::params;
use crate::store::StoreError;

/// Milliseconds that an answered command is kept for those who look into what happened.
const KEPT_MS: i64 = 24 * 3_600_000;

pub(super) async fn reconcile(app: &AppState) -> Result<u64, StoreError> {
    let before = app.clock.now_millis() - KEPT_MS;
    app.store
        .tx(|tx| {
            Box::pin(async move {
                let commands = tx
                    .execute(
                        "DELETE FROM outbox WHERE next_send_at IS NULL AND created_at < $1 \
                         AND NOT EXISTS (SELECT 1 FROM operations o \
                         WHERE o.id = outbox.operation_id AND o.finished_at IS NULL)",
                        params![before],
                    )
                    .await?;
                let tokens = tx
                    .execute(
                        "DELETE FROM join_tokens WHERE expires_at < $1",
                        params![before],
                    )
                    .await?;
                // Dead already: a right holds while its operation runs.
                let rights = tx
                    .execute(
                        "DELETE FROM image_tokens WHERE NOT EXISTS (SELECT 1 FROM operations o \
                         WHERE o.id = image_tokens.operation_id AND o.finished_at IS NULL)",
                        params![],
                    )
                    .await?;
                Ok::<_, StoreError>(commands + tokens + rights)
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::testing::app;

    #[tokio::test]
    async fn a_right_to_an_image_lasts_as_long_as_its_operation_runs() {
        let app = app().await;
        let left = app.store.tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                for state in ["running", "done", "failed"] {
                    tx.execute(
                        "INSERT INTO operations (id, kind, version, project_id, user_id, \
                         request_id, step, attempt, state, params, created_at, updated_at, \
                         finished_at) VALUES ($1, 'create', 1, 'p', 'u', 'r', 's', 1, $1, '{}', 1, 1, $2)",
                        params![state, (state != "running").then_some(1_i64)],
                    )
                    .await?;
                    tx.execute(
                        "INSERT INTO image_tokens VALUES ($1, 'image', $1, 1)",
                        params![state],
                    )
                    .await?;
                }
                Ok(())
            })
        });
        left.await.unwrap();
        assert_eq!(reconcile(&app).await.unwrap(), 2);
        let left = app.store.tx::<_, StoreError, _>(|tx| {
            Box::pin(tx.query("SELECT operation_id FROM image_tokens", params![]))
        });
        let left = left.await.unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].text("operation_id").unwrap(), "running");
    }
}
