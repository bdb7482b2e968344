//! What each server boots from: written when it is asked for, and never read from an image again.

use crate::instances::Instance;
use berth_controller_core::ApiError;
use berth_controller_core::params;
use berth_controller_core::policy::Reach;
use berth_controller_core::store::{Json, StoreError, Tx};
use berth_controller_image::{BootSources, Source};
use berth_rpc_types::InstanceId;
use berth_rpc_types::spec::VmmSpec;
use serde_json::{Value, json};

/// Writes down what a server boots from. What is written already stays.
///
/// # Errors
/// [`StoreError`]
pub async fn keep(tx: &mut Tx, id: InstanceId, sources: &BootSources) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO boot_sources (instance_id, sources) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        params![id, json!(sources)],
    )
    .await?;
    Ok(())
}

/// What a server boots from. Of one that an earlier release made, it is what its VMM last booted
/// from, or, if that is still to be built, what its project may boot from now.
///
/// # Errors
/// 400 that says what is wrong with the image; [`StoreError`]
pub async fn of(
    tx: &mut Tx,
    instance: &Instance,
    last: Option<&VmmSpec>,
) -> Result<BootSources, ApiError> {
    let sql = "SELECT sources FROM boot_sources WHERE instance_id = $1";
    let kept: Option<(Json<BootSources>,)> = tx.query_opt(sql, params![instance.id]).await?;
    if let Some((Json(sources),)) = kept {
        return Ok(sources);
    }
    let root = last.and_then(|spec| spec.disks.first()?.image.as_ref());
    let sources = match (last, root, instance.image_id) {
        (Some(spec), Some(root), _) => BootSources {
            root: Source::from(root),
            kernel: Source::from(&spec.boot.kernel),
            ramdisk: spec.boot.ramdisk.as_ref().map(Source::from),
            cmdline: spec.boot.cmdline.clone(),
        },
        (_, _, Some(image_id)) => {
            let reach = Reach::Project(instance.project_id.clone());
            BootSources::of(tx, &reach, image_id).await?
        }
        (_, _, None) => {
            return Err(ApiError::new(
                berth_controller_core::Service::Compute,
                axum::http::StatusCode::BAD_REQUEST,
                "The server has no image to boot from.",
            ));
        }
    };
    keep(tx, instance.id, &sources).await?;
    Ok(sources)
}

/// Forgets what a server that is gone booted from, what its VMMs were told, and its user data: it
/// may have secrets in it.
///
/// # Errors
/// [`StoreError`]
pub async fn forget(tx: &mut Tx, id: InstanceId) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM boot_sources WHERE instance_id = $1",
        "UPDATE vmms SET spec = NULL WHERE instance_id = $1",
    ] {
        tx.execute(sql, params![id]).await?;
    }
    let sql = "SELECT body FROM instances WHERE id = $1";
    let body: Option<(Json<Value>,)> = tx.query_opt(sql, params![id]).await?;
    if let Some((Json(mut body),)) = body
        && let Some(user_data) = body.get_mut("user_data")
    {
        *user_data = Value::Null;
        let sql = "UPDATE instances SET body = $1 WHERE id = $2";
        tx.execute(sql, params![body, id]).await?;
    }
    Ok(())
}
