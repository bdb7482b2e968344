//! Guests that no server has, as far as that is compute's matter: what they have is held for them, and an
//! operator makes servers of them again ([`berth_controller_hosts::strays`]).

use crate::flavors::FlavorSnapshot;
use crate::instances::{self, Body, NewInstance};
use berth_controller_core::store::{AsStoreError, Json, StoreError, Tx};
use berth_controller_core::{Env, params};
use berth_controller_hosts::strays;
use berth_controller_network as network;
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{HostId, ImageId, InstanceId, PowerState, VmState, VmmId, VmmRole, VmmState};

/// Holds a guest's claim, MACs and addresses. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn hold(
    tx: &mut Tx,
    now: i64,
    vmm_id: VmmId,
    host_id: HostId,
    spec: &VmmSpec,
) -> Result<(), StoreError> {
    let claimed = tx
        .execute(
            "INSERT INTO claims (vmm_id, instance_id, host_id, vcpus, memory_mib, disk_gib, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (vmm_id) DO NOTHING",
            params![
                vmm_id,
                spec.instance_id,
                host_id,
                spec.vcpus,
                spec.memory_mib,
                disk_gib(spec),
                now
            ],
        )
        .await?;
    inventory_changed(tx, host_id, claimed).await?;
    network::strays::hold(tx, now, vmm_id, host_id, spec).await
}

/// Lets go of what is held for a guest that its host no longer has.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn let_go(
    tx: &mut Tx,
    vmm_id: VmmId,
    host_id: HostId,
    spec: &VmmSpec,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM claims WHERE vmm_id = $1 AND host_id = $2 \
               AND NOT EXISTS (SELECT 1 FROM vmms v WHERE v.id = $1)";
    let claims = tx.execute(sql, params![vmm_id, host_id]).await?;
    inventory_changed(tx, host_id, claims).await?;
    network::strays::let_go(tx, spec.instance_id).await
}

async fn inventory_changed(tx: &mut Tx, host_id: HostId, claims: u64) -> Result<(), StoreError> {
    if claims > 0 {
        let sql = "UPDATE hosts SET generation = generation + 1 WHERE id = $1";
        tx.execute(sql, params![host_id]).await?;
    }
    Ok(())
}

fn disk_gib(spec: &VmmSpec) -> i64 {
    let all = spec.disks.iter().map(|disk| disk.size_gib);
    i64::try_from(all.fold(0, u64::saturating_add)).unwrap_or(i64::MAX)
}

/// Why a guest is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// No guest of that id is one.
    #[error("guest {0} is no stray: berth-controller stray list")]
    NoStray(VmmId),
    /// Its agent does not know what it is to be.
    #[error(
        "guest {0} was found on its host, and nobody knows what it is to be: look at it there, and end it \
         by hand"
    )]
    Unknown(VmmId),
    /// There is a server of its id.
    #[error("guest {vmm} is server {instance}'s, which has another guest or was deleted")]
    HasServer {
        /// The guest.
        vmm: VmmId,
        /// The server.
        instance: InstanceId,
    },
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AsStoreError for AdoptError {
    fn as_store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Makes a server of a guest that none has: with its id, name, project, ports and disks, whatever the
/// project's quota says. It can be used, and deleted, like any other.
///
/// # Errors
/// [`AdoptError`]
pub async fn adopt(tx: &mut Tx, env: &Env, vmm_id: VmmId) -> Result<InstanceId, AdoptError> {
    let stray = strays::find(tx, vmm_id).await?;
    let stray = stray.ok_or(AdoptError::NoStray(vmm_id))?;
    let (Some(Json(spec)), Some(sequence)) = (stray.spec, stray.sequence) else {
        return Err(AdoptError::Unknown(vmm_id));
    };
    let (id, now, host_id) = (spec.instance_id, env.now(), stray.host_id);
    let sql = "SELECT id FROM instances WHERE id = $1";
    if tx
        .query_opt::<(InstanceId,)>(sql, params![id])
        .await?
        .is_some()
    {
        return Err(AdoptError::HasServer {
            vmm: vmm_id,
            instance: id,
        });
    }
    hold(tx, now, vmm_id, host_id, &spec).await?;
    instance(tx, now, &spec).await?;
    let state: VmmState = VmmState::parse(&stray.state).unwrap_or(VmmState::Quarantined);
    let vm_state = match state {
        VmmState::Running => VmState::Active,
        VmmState::Paused => VmState::Paused,
        _ => VmState::Stopped,
    };
    tx.execute(
        "INSERT INTO vmms (id, instance_id, host_id, role, state, sequence, observation, spec, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8)",
        params![
            vmm_id,
            id,
            host_id,
            VmmRole::Active.as_str(),
            state.as_str(),
            sequence,
            serde_json::to_value(&spec).unwrap_or_default(),
            now
        ],
    )
    .await?;
    tx.execute(
        "UPDATE instances SET vm_state = $1, power_state = $2, host_id = $3, active_vmm_id = $4, \
         availability_zone = (SELECT availability_zone FROM hosts WHERE id = $3), launched_at = $5 \
         WHERE id = $6",
        params![
            vm_state.as_str(),
            PowerState::from(state) as i64,
            host_id,
            vmm_id,
            now,
            id
        ],
    )
    .await?;
    network::strays::adopt(tx, id, vmm_id, host_id).await?;
    strays::forget(tx, vmm_id, host_id).await?;
    tracing::warn!(%vmm_id, instance_id = %id, %host_id, "an operator adopted a guest that no server had");
    Ok(id)
}

/// The server's row, and its disks'.
async fn instance(tx: &mut Tx, now: i64, spec: &VmmSpec) -> Result<(), StoreError> {
    let image = |disk: &berth_rpc_types::spec::DiskSpec| disk.image.as_ref().map(|image| image.id);
    let root = spec.disks.first().and_then(image);
    let drive = &spec.config_drive;
    let new = NewInstance {
        id: spec.instance_id,
        project_id: spec.project_id.clone(),
        user_id: String::new(),
        name: match drive.display_name.as_str() {
            "" => spec.name.clone(),
            name => name.to_owned(),
        },
        flavor: FlavorSnapshot {
            id: "adopted".into(),
            name: "adopted".into(),
            vcpus: spec.vcpus.into(),
            ram: i64::try_from(spec.memory_mib).unwrap_or(i64::MAX),
            disk: disk_gib(spec),
            ..FlavorSnapshot::default()
        },
        image_id: root.unwrap_or_else(|| ImageId::from_u128(0)),
        key_name: drive.public_keys.first().map(|(name, _)| name.clone()),
        body: Body {
            metadata: drive.metadata.clone(),
            user_data: drive.user_data.clone(),
            public_key: drive.public_keys.first().map(|(_, key)| key.clone()),
            launch_index: drive.launch_index,
            ..Body::default()
        },
    };
    instances::insert(tx, now, &new).await?;
    for (position, disk) in spec.disks.iter().enumerate() {
        tx.execute(
            "INSERT INTO disks (id, instance_id, position, size_gib, image_id, format, \
             writer_generation, created_at) VALUES ($1, $2, $3, $4, $5, 'raw', 1, $6) \
             ON CONFLICT (id) DO NOTHING",
            params![
                disk.id,
                spec.instance_id,
                i64::try_from(position).unwrap_or(i64::MAX),
                disk.size_gib,
                image(disk),
                now
            ],
        )
        .await?;
    }
    Ok(())
}
