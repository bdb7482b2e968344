//! Images: what a killed controller left of an upload is ended, and its files are removed.
//!
//! An upload says every [`SIGN_INTERVAL`] that it goes on. One that has not for [`SILENCE`] beats
//! has no process any more: its connection died with it, so that its client knows, and its image
//! waits for data again. Should its process only have stood still, it finds that the image is no
//! longer its own, and ends. And rights to images of operations that are over.
//!
//! [`SIGN_INTERVAL`]: crate::records::SIGN_INTERVAL
//! [`beat`]: berth_controller_core::beat

use crate::{files, records};
use berth_controller_core::AppState;
use berth_controller_core::store::StoreError;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

/// Beats ([`beat`]) of silence after which an upload is over: ten of its signs did not come.
const SILENCE: i64 = 300;

/// Ends the uploads that nobody carries on.
///
/// # Errors
/// [`StoreError`]
pub async fn reconcile(app: &AppState) -> Result<u64, StoreError> {
    let now = app.clock.now_millis();
    let ended = app
        .store
        .tx(|tx| Box::pin(records::end_silent_uploads(tx, SILENCE, now)))
        .await?;
    if ended > 0 {
        tracing::warn!(
            ended,
            "uploads whose controller died were ended; their images wait for data"
        );
    }
    Ok(ended)
}

/// Removes the rights to images of operations that are over. They are dead already: a right holds
/// while its operation runs.
///
/// # Errors
/// [`StoreError`]
pub async fn prune(app: &AppState) -> Result<u64, StoreError> {
    app.store
        .tx(|tx| {
            Box::pin(tx.execute(
                "DELETE FROM image_tokens WHERE NOT EXISTS (SELECT 1 FROM operations o \
                 WHERE o.id = image_tokens.operation_id AND o.finished_at IS NULL)",
                &[],
            ))
        })
        .await
}

/// Removes files of images that were deleted, and, while nobody disputes this database (PROTOCOL.md,
/// rule 5), what is left of uploads that came to nothing. The file of an image that the database does not
/// know is left alone: it may have been restored from a backup. Reads the whole directory: not for every
/// round.
///
/// # Errors
/// The store's. What the file system refuses is logged, and tried again.
pub async fn sweep(app: &AppState, is_undisputed: bool) -> Result<u64, StoreError> {
    // Rows before files: a file whose image came in between is too young to be removed.
    let (known, retired) = app.store.tx(|tx| Box::pin(records::ids(tx))).await?;
    let known: HashMap<_, _> = known.into_iter().collect();
    let retired: HashSet<_> = retired.into_iter().collect();
    let millis = u64::try_from(app.clock.now_millis()).unwrap_or(0);
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    let directory = app.image_dir.clone();
    let swept = tokio::task::spawn_blocking(move || {
        files::sweep(&directory, now, is_undisputed, |id, data| {
            match (known.get(&id), data) {
                (None, _) => {
                    let keeps = !retired.contains(&id);
                    if keeps {
                        tracing::warn!(%id, "a file of an image that this database does not know; left alone");
                    }
                    keeps
                }
                (Some(_), None) => true,
                (Some(sha512), Some(data)) => {
                    !is_undisputed || sha512.as_ref().is_some_and(|s| s.starts_with(data))
                }
            }
        })
    });
    match swept.await {
        Ok(Ok(removed)) if removed.is_empty() => Ok(0),
        Ok(Ok(removed)) => {
            tracing::warn!(?removed, "image files that nobody has were removed");
            Ok(removed.len() as u64)
        }
        Ok(Err(error)) => {
            let directory = app.image_dir.display();
            tracing::error!(%directory, %error, "the image directory cannot be swept");
            Ok(0)
        }
        Err(error) => {
            tracing::error!(%error, "the sweep of the image directory ended early");
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{Client, app};
    use berth_controller_core::params;
    use serde_json::json;
    use uuid::Uuid;

    async fn queued(client: &Client) -> Uuid {
        let body = json!({"disk_format": "raw", "container_format": "bare"});
        let made = client.post("/image/v2/images", body).await.json();
        made["id"].as_str().unwrap().parse().unwrap()
    }

    async fn begin(app: &AppState, id: Uuid, at: i64) {
        let begun = app.store.tx(|tx| {
            Box::pin(async move {
                records::begin_upload(tx, &id.to_string(), "of a controller that died", at).await
            })
        });
        assert!(begun.await.unwrap());
    }

    #[tokio::test]
    async fn an_upload_whose_controller_died_ends_and_the_image_can_be_uploaded() {
        let app = app().await;
        let client = Client::admin(&app).await;
        let now = app.clock.now_millis();
        let (dead, alive) = (queued(&client).await, queued(&client).await);
        // By a controller whose clock is a day ahead, and one whose is a day behind.
        begin(&app, dead, now + 86_400_000).await;
        begin(&app, alive, now).await;
        assert_eq!(reconcile(&app).await.unwrap(), 0);
        let later = app.store.tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                let sql = "UPDATE beats SET beat = beat + $1";
                tx.execute(sql, params![SILENCE + 1]).await
            })
        });
        later.await.unwrap();
        let sign = app.store.tx(|tx| {
            Box::pin(async move {
                let upload = "of a controller that died";
                records::upload_goes_on(tx, &alive.to_string(), upload, now - 86_400_000).await
            })
        });
        assert!(sign.await.unwrap());
        assert_eq!(reconcile(&app).await.unwrap(), 1);
        for (id, status) in [(dead, "queued"), (alive, "saving")] {
            let shown = client.get(&format!("/image/v2/images/{id}")).await.json();
            assert_eq!(shown["status"], status);
        }
        let file = format!("/image/v2/images/{dead}/file");
        let octets = [("content-type", "application/octet-stream")];
        let again = client.send("PUT", &file, Some(b"abc".to_vec()), &octets);
        assert_eq!(again.await.status, 204);
    }

    #[tokio::test]
    async fn only_the_file_of_an_image_that_was_deleted_is_swept_while_the_database_is_disputed() {
        let app = app().await;
        let client = Client::admin(&app).await;
        let (live, gone) = (queued(&client).await, queued(&client).await);
        let unknown = Uuid::new_v4();
        let deleted = client.delete(&format!("/image/v2/images/{gone}")).await;
        assert_eq!(deleted.status, 204);
        std::fs::create_dir_all(&*app.image_dir).unwrap();
        let data = "0".repeat(128);
        let of = |id: Uuid| files::path(&app.image_dir, id, &data);
        let kept = files::older_path(&app.image_dir, live);
        for path in [kept.clone(), of(live), of(gone), of(unknown)] {
            let file = std::fs::File::create(path).unwrap();
            let old = SystemTime::now() - Duration::from_secs(2 * 3600);
            file.set_modified(old).unwrap();
        }
        let there = || {
            [
                kept.exists(),
                of(live).exists(),
                of(gone).exists(),
                of(unknown).exists(),
            ]
        };
        assert_eq!(sweep(&app, false).await.unwrap(), 1);
        assert_eq!(there(), [true, true, false, true]);
        // Of an upload that came to nothing.
        assert_eq!(sweep(&app, true).await.unwrap(), 1);
        assert_eq!(there(), [true, false, false, true]);
    }

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
        assert_eq!(prune(&app).await.unwrap(), 2);
        let left = app.store.tx::<_, StoreError, _>(|tx| {
            Box::pin(tx.query::<(String,)>("SELECT operation_id FROM image_tokens", params![]))
        });
        assert_eq!(left.await.unwrap(), [("running".to_owned(),)]);
    }
}
