//! Placement: which host, and the claim on it, in one transaction.
//!
//! Guarantees that no interleaving of controllers over-commits a host: a host is chosen from what this
//! controller read a moment ago ([`KnownHosts`]), and claimed by its own rows: they are read, the filters
//! asked again, and the host's generation, which each claim and release raises, is to be what was read.
//! So a claim costs what one host has, and conflicts with those on the same host only. What is used is
//! the sum of the claims, never what agents measure. A claim ends only when the agent answered that
//! nothing is left, or its host was fenced (PROTOCOL.md, rule 1).
//!
//! [`KnownHosts`]: berth_controller_core::KnownHosts

use crate::groups;
use crate::instances::Instance;
use berth_controller_core::listing::Condition;
use berth_controller_core::store::{AsStoreError, Json, StoreError, Tx};
use berth_controller_core::{ControlSettings, Env, beat, params, row};
use berth_controller_hosts::Target;
use berth_controller_image::records;
use berth_controller_network as network;
use berth_rpc_types::{Capacity, HostId, InstanceId, VmmRole, VmmState};
use berth_scheduler::{GroupPolicy, HostSnapshot, ImageProperties, Request, ServerGroup, select};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

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
    let policy = &env.control.scheduler;
    let request = request(tx, instance, excluded).await?;
    let draw = u64::try_from(env.rng.bits() >> 64).unwrap_or(0);
    let named = Named::read(tx, &request).await?;
    let now = env.clock.monotonic();
    if let Some(hosts) = env.hosts.recent(now) {
        let selection = select(&request, &named.on(hosts), policy, draw);
        tracing::info!(instance_id = %instance.id, %selection, "placement");
        for host_id in selection.hosts().take(TRIED) {
            if let Some(target) = claim(tx, env, instance, &request, &named, host_id).await? {
                return Ok(target);
            }
        }
    }
    // What is known is too old, or none of it will do.
    let hosts = read(tx, env, None).await?;
    let hosts: Vec<Arc<HostSnapshot>> = hosts.into_iter().map(|h| Arc::new(h.snapshot)).collect();
    env.hosts.put(now, &hosts);
    let selection = select(&request, &named.on(hosts), policy, draw);
    tracing::info!(instance_id = %instance.id, %selection, "placement, by every host's rows");
    for host_id in selection.hosts().take(TRIED) {
        if let Some(target) = claim(tx, env, instance, &request, &named, host_id).await? {
            return Ok(target);
        }
    }
    // Every host that would do changed while it was looked at: look again.
    match selection.failure() {
        Some(failure) => Err(PlacementError::NoValidHost(failure.to_string())),
        None => Err(StoreError::Contended(1).into()),
    }
}

/// Hosts whose rows are asked, in one placement: each of the best ones may be full by now.
const TRIED: usize = 8;

/// A host as its rows say now.
struct Host {
    snapshot: HostSnapshot,
    generation: i64,
}

/// Claims a host, if its rows say that it will do: `None` if they do not, or changed meanwhile.
async fn claim(
    tx: &mut Tx,
    env: &Env,
    instance: &Instance,
    request: &Request,
    named: &Named,
    host_id: HostId,
) -> Result<Option<Target>, StoreError> {
    let Some(host) = read(tx, env, Some(host_id)).await?.pop() else {
        return Ok(None);
    };
    let now = env.now();
    let Host {
        mut snapshot,
        generation,
    } = host;
    let asked = named.on(vec![Arc::new(snapshot.clone())]);
    let will_do = named.may_be_on(request, host_id)
        && select(request, &asked, &env.control.scheduler, 0).first() == Some(host_id);
    if !will_do {
        env.hosts.update(snapshot);
        return Ok(None);
    }
    let taken = tx
        .execute(
            "UPDATE hosts SET generation = generation + 1 WHERE id = $1 AND generation = $2",
            params![host_id, generation],
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
    // The next one is not to choose it for what is gone. Should this not commit, it is read again soon.
    snapshot.vcpus_used = snapshot.vcpus_used.saturating_add(request.vcpus);
    snapshot.memory_used_mib = snapshot.memory_used_mib.saturating_add(request.memory_mib);
    snapshot.disk_used_gib = snapshot.disk_used_gib.saturating_add(request.disk_gib);
    env.hosts.update(snapshot);
    Ok(Some(Target { vmm_id, host_id }))
}

/// Where the instances are that a request names: its group's members, and those of its hints.
struct Named(BTreeMap<HostId, BTreeSet<InstanceId>>);

impl Named {
    async fn read(tx: &mut Tx, request: &Request) -> Result<Self, StoreError> {
        let mut named: BTreeSet<InstanceId> = request.same_host.clone();
        named.extend(&request.different_host);
        if let Some(group) = &request.group {
            named.extend(&group.members);
        }
        let mut on = BTreeMap::<HostId, BTreeSet<InstanceId>>::new();
        for id in named {
            let sql = "SELECT host_id FROM claims WHERE instance_id = $1";
            for (host_id,) in tx.query::<(HostId,)>(sql, params![id]).await? {
                on.entry(host_id).or_default().insert(id);
            }
        }
        Ok(Self(on))
    }

    /// Hosts with what is named of what they have.
    fn on(&self, mut hosts: Vec<Arc<HostSnapshot>>) -> Vec<Arc<HostSnapshot>> {
        if !self.0.is_empty() {
            for host in &mut hosts {
                if let Some(instances) = self.0.get(&host.id) {
                    Arc::make_mut(host).instances.clone_from(instances);
                }
            }
        }
        hosts
    }

    /// What one host alone does not tell: a group that is to be together is where its members are.
    fn may_be_on(&self, request: &Request, host_id: HostId) -> bool {
        let Some(group) = &request.group else {
            return true;
        };
        let has_member =
            |(_, there): (&HostId, &BTreeSet<InstanceId>)| !there.is_disjoint(&group.members);
        group.policy != GroupPolicy::Affinity
            || request.forced_host.is_some()
            || !self.0.iter().any(has_member)
            || self
                .0
                .get(&host_id)
                .is_some_and(|there| has_member((&host_id, there)))
    }
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

/// Hosts as the database knows them now: all, or one.
async fn read(tx: &mut Tx, env: &Env, only: Option<HostId>) -> Result<Vec<Host>, StoreError> {
    let this = |column: &str| match only {
        None => Condition::default(),
        Some(id) => Condition::new(format!("{column} = ?"), [id.into()]),
    };
    let columns = "id, hostname, availability_zone, enabled, forced_down, capacity, generation";
    let before = format!("SELECT {columns}, {} FROM hosts", beat::SEEN);
    let (sql, values) = this("id").statement(&before, "");
    let rows: Vec<HostRow> = tx.query(&sql, &values).await?;
    let mut claimed = claimed(tx, &this("host_id")).await?;
    let with = |row: HostRow| {
        let mut host = host(row, &env.control);
        if let Some(claimed) = claimed.remove(&host.snapshot.id) {
            host.snapshot.vcpus_used = u32::try_from(claimed.vcpus).unwrap_or(u32::MAX);
            host.snapshot.memory_used_mib = u64::try_from(claimed.memory_mib).unwrap_or(0);
            host.snapshot.disk_used_gib = u64::try_from(claimed.disk_gib).unwrap_or(0);
        }
        host
    };
    Ok(rows.into_iter().map(with).collect())
}

row! {
    /// The claims on a host, summed.
    #[derive(Clone, Copy, Debug, Default)]
    pub(crate) struct Claimed {
        host_id: Option<HostId>,
        pub vcpus: i64,
        pub memory_mib: i64,
        pub disk_gib: i64,
        pub guests: i64,
    }
}

/// What is claimed of each host that has claims which meet a condition.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn claimed(
    tx: &mut Tx,
    which: &Condition,
) -> Result<HashMap<HostId, Claimed>, StoreError> {
    let (sql, values) = which.statement(
        "SELECT host_id, CAST(SUM(vcpus) AS BIGINT) AS vcpus, \
         CAST(SUM(memory_mib) AS BIGINT) AS memory_mib, \
         CAST(SUM(disk_gib) AS BIGINT) AS disk_gib, COUNT(*) AS guests FROM claims",
        "GROUP BY host_id",
    );
    let rows: Vec<Claimed> = tx.query(&sql, &values).await?;
    let by_host = |claimed: Claimed| Some((claimed.host_id?, claimed));
    Ok(rows.into_iter().filter_map(by_host).collect())
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
