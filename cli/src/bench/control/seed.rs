//! What the cloud has before it is measured: projects with a network each, and servers.
//!
//! One server is made through the API. The others are copies of its rows, so many that nobody would
//! wait for the API to make them: each has its VMM, claim, disk, port and address, an operation and an
//! action that are over; and so many were deleted before. Their hosts' agents do not know them, and say
//! nothing of them, as of any guest of which there is no news.

use super::api::Api;
use anyhow::{Context as _, bail};
use berth_controller::core::params;
use berth_controller::core::store::{Store, StoreError, Value};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// Projects that share the servers: a thing of one is not to cost what the others have.
const PROJECTS: u32 = 20;
/// What a project may have of each: more than it gets, and a limit, so that it is counted.
const MUCH: i64 = 1_000_000_000;
/// How long the first server may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first address that a copy has, as a distance from its subnet's first.
const FIRST_ADDRESS: i64 = 1_000;

/// What servers are made of.
pub struct Furnished {
    /// Of each project: its id, its name, its network, its subnet. Those that ask are the first's.
    projects: Vec<Project>,
    image: String,
    flavor: String,
    /// The server of which the others are copies.
    pub template: String,
    /// Whether the database is PostgreSQL's, whose words for copies are others than SQLite's.
    postgres: bool,
}

struct Project {
    id: String,
    name: String,
    network: String,
    subnet: String,
}

impl Furnished {
    /// The project that asks, by name.
    pub fn asking(&self) -> &str {
        self.projects.first().map_or("", |project| &project.name)
    }

    /// What a create of a server says.
    pub fn server(&self, name: &str) -> Json {
        let network = self.projects.first().map_or("", |project| &project.network);
        json!({"server": {"name": name, "imageRef": self.image, "flavorRef": self.flavor,
            "networks": [{"uuid": network}]}})
    }
}

/// Makes projects, networks, an image, a flavor and the first server.
///
/// # Errors
/// What the cloud said.
pub async fn furnish(api: &Api, postgres: bool) -> anyhow::Result<Furnished> {
    let kernel = json!({"name": "kernel", "disk_format": "aki", "container_format": "aki"});
    let kernel = api.image(&kernel).await?;
    let image = json!({"name": "root", "disk_format": "raw", "container_format": "bare",
        "kernel_id": kernel, "visibility": "public"});
    let image = api.image(&image).await?;
    let flavor = json!({"name": "small", "vcpus": 1, "ram": 128, "disk": 1});
    let flavor = api.make("/compute/v2.1/flavors", "flavor", flavor).await?;
    let me = api.ask(Method::GET, "/identity/v3/users?name=admin", &Json::Null);
    let me = first_id(&me.await?, "users")?;
    let role = api.ask(Method::GET, "/identity/v3/roles?name=admin", &Json::Null);
    let role = first_id(&role.await?, "roles")?;
    let mut projects = vec![];
    for number in 0..PROJECTS {
        let name = format!("project-{number}");
        let about = json!({"name": name});
        let id = api.make("/identity/v3/projects", "project", about).await?;
        let path = format!("/identity/v3/projects/{id}/users/{me}/roles/{role}");
        api.ask(Method::PUT, &path, &Json::Null).await?;
        let quota = json!({"quota_set": {"instances": MUCH, "cores": MUCH, "ram": MUCH}});
        let path = format!("/compute/v2.1/os-quota-sets/{id}");
        api.ask(Method::PUT, &path, &quota).await?;
        let quota = json!({"quota": {"port": MUCH}});
        let path = format!("/network/v2.0/quotas/{id}");
        api.ask(Method::PUT, &path, &quota).await?;
        let about = json!({"name": name, "tenant_id": id});
        let network = api.make("/network/v2.0/networks", "network", about).await?;
        let about = json!({"network_id": network, "tenant_id": id, "ip_version": 4,
            "cidr": format!("10.{number}.0.0/16")});
        let subnet = api.make("/network/v2.0/subnets", "subnet", about).await?;
        projects.push(Project {
            id,
            name,
            network,
            subnet,
        });
    }
    let mut furnished = Furnished {
        projects,
        image,
        flavor,
        template: String::new(),
        postgres,
    };
    let of_project = api.of_project(furnished.asking()).await?;
    let path = "/compute/v2.1/servers";
    let made = of_project
        .ask(Method::POST, path, &furnished.server("first"))
        .await?;
    let id = made["server"]["id"]
        .as_str()
        .context("a server has an id")?;
    let path = format!("/compute/v2.1/servers/{id}");
    let active = async {
        loop {
            let shown = of_project.ask(Method::GET, &path, &Json::Null).await?;
            match shown["server"]["status"].as_str() {
                Some("ACTIVE") => return anyhow::Ok(()),
                Some("ERROR") => bail!("the first server: {}", shown["server"]["fault"]),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, active).await??;
    furnished.template = id.to_owned();
    Ok(furnished)
}

fn first_id(list: &Json, kind: &str) -> anyhow::Result<String> {
    let id = list[kind][0]["id"].as_str();
    Ok(id
        .with_context(|| format!("no {kind} in {list}"))?
        .to_owned())
}

/// Makes so many servers, and so many deleted ones, by copying the first.
///
/// # Errors
/// The database's.
pub async fn servers(store: &Store, furnished: &Furnished, servers: u32) -> anyhow::Result<()> {
    let share = servers.div_ceil(PROJECTS);
    for (at, project) in furnished.projects.iter().enumerate() {
        let begin = i64::try_from(at)? * i64::from(share);
        let end = (begin + i64::from(share)).min(i64::from(servers));
        for (kind, is_deleted) in [(1, false), (2, true)] {
            let copies = Copies {
                kind,
                is_deleted,
                postgres: furnished.postgres,
                begin,
                end,
            };
            copies.make(store, project, &furnished.template).await?;
        }
    }
    if furnished.postgres {
        // As the server's own autovacuum does, some minutes later.
        store
            .tx::<_, StoreError, _>(|tx| Box::pin(tx.execute("ANALYZE", params![])))
            .await?;
    }
    Ok(())
}

/// Copies of one server.
struct Copies {
    /// Kept apart by it.
    kind: u8,
    is_deleted: bool,
    postgres: bool,
    begin: i64,
    end: i64,
}

impl Copies {
    /// SQL for the id of the copy `n.i` in one table: in the form of a UUID, and never drawn.
    fn id(&self, table: u8) -> String {
        let start = format!("{:02x}{table:02x}0000-0000-4000-8000-", self.kind);
        if self.postgres {
            format!("'{start}' || lpad(to_hex(n.i), 12, '0')")
        } else {
            format!("printf('{start}%012x', n.i)")
        }
    }

    async fn make(
        &self,
        store: &Store,
        project: &Project,
        template: &str,
    ) -> Result<(), StoreError> {
        let (server, vmm, disk, port) = (self.id(1), self.id(2), self.id(3), self.id(4));
        let operation = self.id(5);
        let mac = if self.postgres {
            "'fa:16:3e:' || regexp_replace(lpad(to_hex(n.i), 6, '0'), '(..)(..)(..)', '\\1:\\2:\\3')"
        } else {
            "printf('fa:16:3e:%02x:%02x:%02x', n.i >> 16, (n.i >> 8) & 255, n.i & 255)"
        };
        let (state, role, host, active, deleted) = match self.is_deleted {
            true => ("deleted", "source", "NULL", "NULL", "t.created_at"),
            false => ("active", "active", "h.id", &*vmm, "NULL"),
        };
        let vmm_state = if self.is_deleted {
            "deleted"
        } else {
            "running"
        };
        let mut all = vec![
            format!(
                "INSERT INTO instances (id, project_id, user_id, name, vm_state, power_state, host_id, \
                 active_vmm_id, availability_zone, flavor, vcpus, memory_mib, image_id, locked, body, \
                 generation, created_at, updated_at, launched_at, deleted_at) {COPIES} \
                 SELECT {server}, $3, t.user_id, 'server-' || n.i, '{state}', t.power_state, {host}, \
                 {active}, t.availability_zone, t.flavor, t.vcpus, t.memory_mib, t.image_id, 0, t.body, \
                 1, t.created_at - n.i, t.created_at, t.created_at, {deleted} \
                 {FROM} JOIN instances t ON t.id = $4"
            ),
            format!(
                "INSERT INTO vmms (id, instance_id, host_id, role, state, sequence, observation, spec, \
                 created_at, deleted_at) {COPIES} SELECT {vmm}, {server}, h.id, '{role}', '{vmm_state}', \
                 1, 1, t.spec, t.created_at, {deleted} \
                 {FROM} JOIN vmms t ON t.instance_id = $4 WHERE $3 <> ''"
            ),
            format!(
                "INSERT INTO operations (id, kind, version, instance_id, project_id, user_id, request_id, \
                 step, attempt, state, params, created_at, updated_at, finished_at) {COPIES} \
                 SELECT {operation}, t.kind, t.version, {server}, $3, t.user_id, 'req-' || {operation}, \
                 t.step, 1, 'done', t.params, t.created_at, t.created_at, t.created_at \
                 {FROM} JOIN operations t ON t.instance_id = $4"
            ),
            format!(
                "INSERT INTO instance_actions (request_id, instance_id, operation_id, action, project_id, \
                 user_id, events, started_at, updated_at) {COPIES} \
                 SELECT 'req-' || {operation}, {server}, {operation}, t.action, $3, t.user_id, t.events, \
                 t.started_at, t.updated_at {FROM} JOIN instance_actions t ON t.instance_id = $4"
            ),
        ];
        if !self.is_deleted {
            all.extend([
                format!(
                    "INSERT INTO claims (vmm_id, instance_id, host_id, vcpus, memory_mib, disk_gib, \
                     created_at) {COPIES} SELECT {vmm}, {server}, h.id, t.vcpus, t.memory_mib, \
                     t.disk_gib, t.created_at {FROM} JOIN claims t ON t.instance_id = $4 WHERE $3 <> ''"
                ),
                format!(
                    "INSERT INTO disks (id, instance_id, host_id, position, size_gib, image_id, format, \
                     writer_generation, created_at) {COPIES} SELECT {disk}, {server}, h.id, t.position, \
                     t.size_gib, t.image_id, t.format, 1, t.created_at \
                     {FROM} JOIN disks t ON t.instance_id = $4 WHERE $3 <> ''"
                ),
                format!(
                    "INSERT INTO boot_sources (instance_id, sources) {COPIES} SELECT {server}, t.sources \
                     {FROM} JOIN boot_sources t ON t.instance_id = $4 WHERE $3 <> ''"
                ),
                format!(
                    "INSERT INTO ports (id, network_id, project_id, name, description, admin_state_up, mac, \
                     device_id, device_owner, status, made_by_compute, instance_id, device_index, vmm_id, \
                     host_id, revision, created_at, updated_at) {COPIES} SELECT {port}, $5, $3, '', '', 1, \
                     {mac}, {server}, t.device_owner, t.status, 1, {server}, 0, {vmm}, h.id, 1, \
                     t.created_at, t.created_at {FROM} JOIN ports t ON t.instance_id = $4"
                ),
                format!(
                    "INSERT INTO port_security_groups (port_id, group_id) {COPIES} \
                     SELECT {port}, t.group_id {FROM} JOIN port_security_groups t ON t.port_id IN \
                     (SELECT id FROM ports WHERE instance_id = $4) WHERE $3 <> ''"
                ),
            ]);
        }
        let range = [Value::from(self.begin), Value::from(self.end)];
        let mut of_project = range.to_vec();
        of_project.extend(params![&project.id, template].iter().cloned());
        let mut of_network = of_project.clone();
        of_network.extend(params![&project.network].iter().cloned());
        let addresses = format!(
            "INSERT INTO address_allocations (subnet_id, position, holder) {COPIES} \
             SELECT CAST($3 AS TEXT), n.i - $1 + $4, {port} FROM n"
        );
        let mut of_subnet = range.to_vec();
        let first = i64::MIN + FIRST_ADDRESS;
        of_subnet.extend(params![&project.subnet, first].iter().cloned());
        store
            .tx(|tx| {
                let mut all: Vec<(String, Vec<Value>)> = all
                    .iter()
                    .map(|sql| {
                        let is_port = sql.starts_with("INSERT INTO ports");
                        (
                            sql.clone(),
                            if is_port { &of_network } else { &of_project }.clone(),
                        )
                    })
                    .collect();
                if !self.is_deleted {
                    all.push((addresses.clone(), of_subnet.clone()));
                }
                Box::pin(async move {
                    for (sql, values) in all {
                        tx.execute(&sql, &values).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// Numbers of copies, from `$1` up to but without `$2`.
const COPIES: &str = "WITH RECURSIVE n (i) AS (SELECT CAST($1 AS BIGINT) WHERE $1 < $2 UNION ALL \
    SELECT i + 1 FROM n WHERE i + 1 < $2), hosts_by_turn (id, turn) AS \
    (SELECT id, ROW_NUMBER() OVER (ORDER BY id) - 1 FROM hosts)";
/// Each copy, with its host.
const FROM: &str = "FROM n JOIN hosts_by_turn h ON h.turn = n.i % (SELECT COUNT(*) FROM hosts)";
