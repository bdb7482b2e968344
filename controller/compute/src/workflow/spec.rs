//! From rows to the complete order for a guest: nobody is asked afterwards.

use crate::boot_sources;
use crate::instances::Instance;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Env, params};
use berth_controller_network as network;
use berth_rpc_types::spec::{BootSpec, ConfigDriveSpec, DiskSpec, VmmSpec};
use berth_rpc_types::{OperationId, VmmId};

/// The spec of an instance's VMM, with image tokens for this operation. It is kept with the VMM,
/// so that a guest whose image was deleted since can still be started from its own disks.
///
/// The inner error says why there can be none: its image is gone, or is not fit to boot.
pub(super) async fn compile(
    tx: &mut Tx,
    env: &Env,
    instance: &Instance,
    vmm_id: VmmId,
    operation_id: OperationId,
) -> Result<Result<VmmSpec, String>, StoreError> {
    let kept = kept(tx, vmm_id).await?;
    let sources = match boot_sources::of(tx, instance, kept.as_ref()).await {
        Ok(sources) => sources,
        Err(error) => return said(error),
    };
    // A host that has built it has what it boots from.
    if kept.is_none()
        && let Err(error) = sources.are_there(tx).await
    {
        return said(error);
    }
    let images = sources.specs(tx, env, operation_id).await?;
    let boot = BootSpec {
        kernel: images.kernel,
        ramdisk: images.ramdisk,
        cmdline: sources.cmdline,
    };
    let spec = VmmSpec {
        instance_id: instance.id,
        name: instance.hostname(),
        project_id: instance.project_id.clone(),
        vcpus: u32::try_from(instance.flavor.vcpus).unwrap_or(1),
        memory_mib: u64::try_from(instance.flavor.ram).unwrap_or(0),
        boot,
        disks: disks(tx, instance, Some(images.root)).await?,
        ports: network::port_specs(tx, instance.id).await?,
        config_drive: config_drive(instance),
    };
    // Its tokens are for the order, and stay nowhere else.
    let mut remembered = spec.clone();
    let images = remembered.disks.iter_mut().filter_map(|d| d.image.as_mut());
    let boot = &mut remembered.boot;
    for image in images.chain([&mut boot.kernel]).chain(&mut boot.ramdisk) {
        image.token.clear();
    }
    let text = serde_json::to_value(&remembered).unwrap_or_default();
    tx.execute(
        "UPDATE vmms SET spec = $1 WHERE id = $2",
        params![text, vmm_id],
    )
    .await?;
    Ok(Ok(spec))
}

/// What there is to say to the user, unless the database failed.
fn said<T>(error: ApiError) -> Result<Result<T, String>, StoreError> {
    match error.cause {
        Some(cause) => Err(cause),
        None => Ok(Err(error.message)),
    }
}

async fn kept(tx: &mut Tx, vmm_id: VmmId) -> Result<Option<VmmSpec>, StoreError> {
    let row: Option<(Option<String>,)> = tx
        .query_opt("SELECT spec FROM vmms WHERE id = $1", params![vmm_id])
        .await?;
    let text = row.and_then(|(text,)| text);
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

async fn disks(
    tx: &mut Tx,
    instance: &Instance,
    mut root: Option<berth_rpc_types::ImageSpec>,
) -> Result<Vec<DiskSpec>, StoreError> {
    let rows: Vec<(uuid::Uuid, u64)> = tx
        .query(
            "SELECT id, size_gib FROM disks WHERE instance_id = $1 ORDER BY position",
            params![instance.id],
        )
        .await?;
    let disks = rows.into_iter().map(|(id, size_gib)| DiskSpec {
        id,
        // The first is the root disk.
        image: root.take(),
        size_gib,
        read_only: false,
    });
    Ok(disks.collect())
}

fn config_drive(instance: &Instance) -> ConfigDriveSpec {
    let body = &instance.body;
    let key = instance.key_name.clone().zip(body.public_key.clone());
    ConfigDriveSpec {
        public_keys: key.into_iter().collect(),
        user_data: body.user_data.clone(),
        metadata: body.metadata.clone(),
        availability_zone: instance.availability_zone.clone().unwrap_or_default(),
        display_name: instance.name.clone(),
        launch_index: body.launch_index,
    }
}
