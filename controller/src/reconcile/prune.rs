//! What nobody asks for any more: answered commands of closed operations, and dead tokens.
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
                         WHERE o.id = outbox.operation_id AND o.state = 'running')",
                        params![before],
                    )
                    .await?;
                let tokens = tx
                    .execute(
                        "DELETE FROM join_tokens WHERE expires_at < $1",
                        params![before],
                    )
                    .await?;
                Ok::<_, StoreError>(commands + tokens)
            })
        })
        .await
}
