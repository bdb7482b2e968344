//! Placement: which host, and the claim on it, in one transaction.
//!
//! Guarantees that no interleaving of controllers over-commits a host: the snapshot, the choice
//! and the claim are one SERIALIZABLE transaction, and the claim is guarded by the host's
//! inventory generation. What is used is the sum of the claims, never what agents measure. A
//! claim ends only when the agent answered that nothing is left, or its host was fenced
//! (PROTOCOL.md, rule 1).

use crate::groups;
use crate::instances::Instance;
use berth_controller_core::store::{AsStoreError, Json, StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, beat, params, row};
use berth_controller_hosts::Target;
use berth_controller_image::records;
use berth_controller_network as network;
use berth_rpc_types::{Capacity, HostId, InstanceId, VmmRole, VmmState};
use berth_scheduler::{
    GroupPolicy, HostSnapshot, ImageProperties, Request, Selection, ServerGroup, select,
};
use std::collections::{BTreeMap, BTreeSet};

/// Why nothing was claimed.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Says how many hosts each filter removed, and why.
    #[error("{0}")]
    NoValidHost(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AsStoreError for PlacementError {
    fn as_store_error(&self) -> Option<&StoreError> {
        match self {
            Self::NoValidHost(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

/// Chooses the best host for an instance, claims it, and makes the row of a VMM there that is to
/// take over ([`hand_over`]).
///
/// # Errors
/// [`PlacementError::NoValidHost`] with the reasons, for the server's fault.
pub async fn select_and_claim(
    tx: &mut Tx,
    env: &Env,
    instance: &Instance,
    excluded: &[HostId],
) -> Result<Target, PlacementError> {
    let control = &*env.control;
    let hosts = snapshot(tx, control).await?;
    let request = request(tx, instance, excluded).await?;
    let draw = u64::try_from(env.rng.bits() >> 64).unwrap_or(0);
    let snapshots: Vec<HostSnapshot> = hosts.values().map(|h| h.snapshot.clone()).collect();
    let selection: Selection = select(&request, &snapshots, &control.scheduler, draw);
    tracing::info!(instance_id = %instance.id, %selection, "placement");
    for host_id in selection.hosts() {
        let Some(host) = hosts.get(&host_id) else {
            continue;
        };
        if let Some(target) = claim(tx, env, instance, host).await? {
            return Ok(target);
        }
    }
    // Every host that would do changed while it was looked at: look again.
    match selection.failure() {
        Some(failure) => Err(PlacementError::NoValidHost(failure.to_string())),
        None => Err(StoreError::Contended(1).into()),
    }
}

struct Host {
    snapshot: HostSnapshot,
    generation: i64,
}

async fn claim(
    tx: &mut Tx,
    env: &Env,
    instance: &Instance,
    host: &Host,
) -> Result<Option<Target>, StoreError> {
    let now = env.now();
    let host_id = host.snapshot.id;
    let taken = tx
        .execute(
            "UPDATE hosts SET generation = generation + 1 WHERE id = $1 AND generation = $2",
            params![host_id, host.generation],
        )
        .await?;
    if taken == 0 {
        return Ok(None);
    }
    let vmm_id = env.vmm_id();
    let flavor = &instance.flavor;
    tx.execute(
        "INSERT INTO claims (vmm_id, instance_id, host_id, vcpus, memory_mib, disk_gib, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![vmm_id, instance.id, host_id, flavor.vcpus, flavor.ram, flavor.disk, now],
    )
    .await?;
    tx.execute(
        "INSERT INTO vmms (id, instance_id, host_id, role, state, sequence, observation, created_at) \
         VALUES ($1, $2, $3, $4, $5, 0, 0, $6)",
        params![
            vmm_id,
            instance.id,
            host_id,
            VmmRole::Target.as_str(),
            VmmState::Building.as_str(),
            now
        ],
    )
    .await?;
    Ok(Some(Target { vmm_id, host_id }))
}

/// Makes a VMM the instance's active one: it is on that host from now on, with its disks
/// and its ports' traffic. The one
/// before it becomes a source, which waits to be removed. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn hand_over(tx: &mut Tx, id: InstanceId, to: Target) -> Result<(), StoreError> {
    let Target { vmm_id, host_id } = to;
    let (active, source) = (VmmRole::Active.as_str(), VmmRole::Source.as_str());
    tx.execute(
        "UPDATE vmms SET role = CASE WHEN id = $1 THEN $2 ELSE $3 END \
         WHERE instance_id = $4 AND deleted_at IS NULL AND (id = $1 OR role = $2)",
        params![vmm_id, active, source, id],
    )
    .await?;
    tx.execute(
        "UPDATE instances SET host_id = $1, active_vmm_id = $2, availability_zone = \
         (SELECT h.availability_zone FROM hosts h WHERE h.id = $1), \
         generation = generation + 1 WHERE id = $3",
        params![host_id, vmm_id, id],
    )
    .await?;
    tx.execute(
        "UPDATE disks SET host_id = $1 WHERE instance_id = $2",
        params![host_id, id],
    )
    .await?;
    network::activate(tx, id, vmm_id, host_id).await
}

/// Gives back what a VMM held, once its agent answered that nothing is left of it. The VMM's row
/// stays, closed. Safe to do twice.
///
/// # Errors
/// [`StoreError`]
pub async fn give_back(tx: &mut Tx, now: i64, target: Target) -> Result<(), StoreError> {
    let Target { vmm_id, host_id } = target;
    let claims = tx
        .execute("DELETE FROM claims WHERE vmm_id = $1", params![vmm_id])
        .await?;
    if claims > 0 {
        tx.execute(
            "UPDATE hosts SET generation = generation + 1 WHERE id = $1",
            params![host_id],
        )
        .await?;
    }
    // Who holds its ports is the API's matter.
    network::unbind(tx, vmm_id).await?;
    tx.execute(
        "UPDATE vmms SET state = $1, deleted_at = $2 WHERE id = $3 AND deleted_at IS NULL",
        params![VmmState::Deleted.as_str(), now, vmm_id],
    )
    .await?;
    tx.execute(
        "UPDATE instances SET host_id = NULL, active_vmm_id = NULL, generation = generation + 1 \
         WHERE active_vmm_id = $1",
        params![vmm_id],
    )
    .await?;
    Ok(())
}

/// Every host as the database knows it now.
async fn snapshot(
    tx: &mut Tx,
    control: &ControlSettings,
) -> Result<BTreeMap<HostId, Host>, StoreError> {
    let mut hosts = BTreeMap::new();
    let sql = format!(
        "SELECT id, hostname, availability_zone, enabled, forced_down, capacity, generation, {} \
         FROM hosts",
        beat::SEEN
    );
    for row in tx.query(&sql, &[]).await? {
        let host = host(row, control);
        hosts.insert(host.snapshot.id, host);
    }
    for claim in tx
        .query::<Claim>(
            "SELECT host_id, instance_id, vcpus, memory_mib, disk_gib FROM claims",
            &[],
        )
        .await?
    {
        if let Some(host) = hosts.get_mut(&claim.host_id) {
            let used = &mut host.snapshot;
            used.instances.insert(claim.instance_id);
            used.vcpus_used = used.vcpus_used.saturating_add(claim.vcpus);
            used.memory_used_mib += claim.memory_mib;
            used.disk_used_gib += claim.disk_gib;
        }
    }
    Ok(hosts)
}

row! {
    struct Claim {
        host_id: HostId,
        instance_id: InstanceId,
        vcpus: u32,
        memory_mib: u64,
        disk_gib: u64,
    }
}

row! {
    struct HostRow {
        id: HostId,
        hostname: String,
        availability_zone: String,
        enabled: bool,
        forced_down: bool,
        silent: i64,
        capacity: Json<Capacity>,
        generation: i64,
    }
}

fn host(row: HostRow, control: &ControlSettings) -> Host {
    let capacity = row.capacity.0;
    Host {
        generation: row.generation,
        snapshot: HostSnapshot {
            id: row.id,
            hostname: row.hostname,
            up: control.is_up(row.silent, row.forced_down),
            enabled: row.enabled && !row.forced_down,
            availability_zone: row.availability_zone,
            vcpus: capacity.vcpus,
            vcpus_used: 0,
            memory_mib: capacity.memory_mib,
            memory_used_mib: 0,
            disk_gib: capacity.disk_gib,
            disk_used_gib: 0,
            disk_available_least_gib: Some(capacity.disk_free_gib),
            io_operations: capacity.io_operations,
            architecture: capacity.architecture,
            hypervisor_type: capacity.driver,
            physical_networks: capacity.physical_networks.into_iter().collect(),
            instances: BTreeSet::new(),
        },
    }
}

async fn request(
    tx: &mut Tx,
    instance: &Instance,
    excluded: &[HostId],
) -> Result<Request, StoreError> {
    let body = &instance.body;
    Ok(Request {
        vcpus: unsigned(instance.flavor.vcpus),
        memory_mib: unsigned64(instance.flavor.ram),
        disk_gib: unsigned64(instance.flavor.disk),
        availability_zone: body.requested_zone.clone(),
        forced_host: body.requested_host.clone(),
        image: image(tx, instance).await?,
        excluded_hosts: excluded.iter().copied().collect(),
        same_host: body.hints.same_host.iter().copied().collect(),
        different_host: body.hints.different_host.iter().copied().collect(),
        group: group(tx, instance).await?,
        physical_networks: physical_networks(tx, instance.id).await?,
    })
}

/// The physical networks that its ports need.
async fn physical_networks(tx: &mut Tx, id: InstanceId) -> Result<BTreeSet<String>, StoreError> {
    let rows: Vec<(String,)> = tx
        .query(
            "SELECT DISTINCT n.physical_network FROM ports p JOIN networks n ON n.id = p.network_id \
             WHERE p.instance_id = $1 AND n.physical_network IS NOT NULL",
            params![id],
        )
        .await?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

async fn image(tx: &mut Tx, instance: &Instance) -> Result<ImageProperties, StoreError> {
    let Some(image_id) = instance.image_id else {
        return Ok(ImageProperties::default());
    };
    let Some(image) = records::find(tx, &image_id.to_string()).await? else {
        return Ok(ImageProperties::default());
    };
    let of = |name: &str| image.properties.get(name).cloned();
    Ok(ImageProperties {
        architecture: of("hw_architecture").or_else(|| of("architecture")),
        hypervisor_type: of("img_hv_type").or_else(|| of("hypervisor_type")),
        vm_mode: of("hw_vm_mode").or_else(|| of("vm_mode")),
    })
}

async fn group(tx: &mut Tx, instance: &Instance) -> Result<Option<ServerGroup>, StoreError> {
    let Some(id) = &instance.body.hints.group else {
        return Ok(None);
    };
    // A group deleted since binds nobody.
    let Some(group) = groups::get(tx, id).await? else {
        return Ok(None);
    };
    let policy = match group.policy.as_str() {
        "affinity" => GroupPolicy::Affinity,
        "anti-affinity" => GroupPolicy::AntiAffinity,
        "soft-affinity" => GroupPolicy::SoftAffinity,
        _ => GroupPolicy::SoftAntiAffinity,
    };
    let members = group.members.into_iter().filter(|m| *m != instance.id);
    Ok(Some(ServerGroup {
        policy,
        members: members.collect(),
        max_server_per_host: 1,
    }))
}

fn unsigned(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(if value < 0 { 0 } else { u32::MAX })
}

fn unsigned64(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
