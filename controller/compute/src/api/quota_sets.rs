//! `/limits`, `/os-quota-sets`, `/os-simple-tenant-usage`: what a project may use, and does.

use super::common::{Call, Reply, bad, boolean, forbidden, object, ok, read, status, tx, within};
use super::render::{Field, render};
use crate::instances::{self, Instance};
use crate::{groups, quotas};
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::clip;
use berth_controller_core::listing::Condition;
use berth_controller_core::query::Params;
use berth_controller_core::store::StoreError;
use berth_controller_core::{ApiError, time};
use berth_rpc_types::VmState;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Limits and use of a project.
struct Limits {
    limits: Vec<(&'static str, i64)>,
    usage: quotas::Usage,
    groups: usize,
}

impl Limits {
    fn of(&self, resource: &str) -> Value {
        json!(quotas::limit_of(&self.limits, resource))
    }
}

type F = Field<Limits>;

/// What is not limited here is -1; what is refused here is 0.
const ABSOLUTE: &[F] = &[
    F::always("maxTotalInstances", |l, _| Some(l.of("instances"))),
    F::always("maxTotalCores", |l, _| Some(l.of("cores"))),
    F::always("maxTotalRAMSize", |l, _| Some(l.of("ram"))),
    F::always("maxTotalKeypairs", |l, _| Some(l.of("key_pairs"))),
    F::always("maxServerMeta", |l, _| Some(l.of("metadata_items"))),
    F::always("maxServerGroups", |l, _| Some(l.of("server_groups"))),
    F::always("maxServerGroupMembers", |l, _| {
        Some(l.of("server_group_members"))
    }),
    F::always("totalInstancesUsed", |l, _| Some(json!(l.usage.instances))),
    F::always("totalCoresUsed", |l, _| Some(json!(l.usage.cores))),
    F::always("totalRAMUsed", |l, _| Some(json!(l.usage.ram))),
    F::always("totalServerGroupsUsed", |l, _| Some(json!(l.groups))),
    F::always("maxSecurityGroups", |_, _| Some(json!(-1))).until(35),
    F::always("maxSecurityGroupRules", |_, _| Some(json!(-1))).until(35),
    F::always("maxTotalFloatingIps", |_, _| Some(json!(-1))).until(35),
    F::always("totalFloatingIpsUsed", |_, _| Some(json!(0))).until(35),
    F::always("totalSecurityGroupsUsed", |_, _| Some(json!(0))).until(35),
    F::always("maxImageMeta", |l, _| Some(l.of("metadata_items"))).until(38),
    F::always("maxPersonality", |_, _| Some(json!(0))).until(56),
    F::always("maxPersonalitySize", |_, _| Some(json!(0))).until(56),
];

/// `GET /limits`
pub async fn limits(call: Call, params: Params) -> Reply {
    let own = call.context.project_id.clone();
    let project = match params.get("tenant_id") {
        Some(other) if !call.context.may_see(other) => {
            return Err(forbidden(
                "Policy doesn't allow os_compute_api:limits:other_project to be performed.",
            ));
        }
        Some(other) => other.to_owned(),
        None => own,
    };
    let limits = read!(call, |tx| [project] {
        Ok::<_, ApiError>(Limits {
            limits: quotas::limits(tx, &project).await?,
            usage: quotas::usage(tx, &project).await?,
            groups: groups::list(tx, Some(&project)).await?.len(),
        })
    })?;
    let absolute = render(ABSOLUTE, &limits, call.version, false);
    ok(json!({"limits": {"rate": [], "absolute": absolute}}))
}

/// A quota set: resource, since and until.
const QUOTA_FIELDS: &[(&str, u16)] = &[
    ("instances", u16::MAX),
    ("cores", u16::MAX),
    ("ram", u16::MAX),
    ("key_pairs", u16::MAX),
    ("metadata_items", u16::MAX),
    ("server_groups", u16::MAX),
    ("server_group_members", u16::MAX),
    ("floating_ips", 35),
    ("fixed_ips", 35),
    ("security_groups", 35),
    ("security_group_rules", 35),
    ("injected_files", 56),
    ("injected_file_content_bytes", 56),
    ("injected_file_path_bytes", 56),
];

fn fields_of(call: &Call) -> impl Iterator<Item = &'static str> {
    let minor = call.version.0;
    QUOTA_FIELDS
        .iter()
        .filter(move |(_, until)| minor <= *until)
        .map(|(name, _)| *name)
}

/// A limit as it is shown: 0 for what is refused, -1 for what is not limited.
fn shown_limit(limits: &[(&'static str, i64)], resource: &str) -> i64 {
    if resource.starts_with("injected_") {
        return 0;
    }
    quotas::limit_of(limits, resource)
}

fn quota_set(call: &Call, limits: &[(&'static str, i64)]) -> Map<String, Value> {
    fields_of(call)
        .map(|name| (name.to_owned(), json!(shown_limit(limits, name))))
        .collect()
}

fn may_see(call: &Call, project: &str) -> Result<(), ApiError> {
    if call.context.may_see(project) {
        return Ok(());
    }
    Err(forbidden(
        "Policy doesn't allow os_compute_api:os-quota-sets:show to be performed.",
    ))
}

/// `GET /os-quota-sets/{project}`
pub async fn show(call: Call, Path(project): Path<String>) -> Reply {
    may_see(&call, &project)?;
    let limits = read!(call, |tx| [project] { quotas::limits(tx, &project).await })?;
    let mut set = quota_set(&call, &limits);
    set.insert("id".into(), json!(project));
    ok(json!({ "quota_set": set }))
}

/// `GET /os-quota-sets/{project}/defaults`
pub async fn defaults(call: Call, Path(project): Path<String>) -> Reply {
    let mut set = quota_set(&call, quotas::ENFORCED);
    set.insert("id".into(), json!(project));
    ok(json!({ "quota_set": set }))
}

/// `GET /os-quota-sets/{project}/detail`
pub async fn detail(call: Call, Path(project): Path<String>) -> Reply {
    may_see(&call, &project)?;
    let (limits, usage, groups) = read!(call, |tx| [project] {
        let limits = quotas::limits(tx, &project).await?;
        let usage = quotas::usage(tx, &project).await?;
        let groups = groups::list(tx, Some(&project)).await?.len();
        Ok::<_, ApiError>((limits, usage, groups))
    })?;
    let mut set = Map::new();
    set.insert("id".into(), json!(project));
    for name in fields_of(&call) {
        let in_use = match name {
            "instances" => usage.instances,
            "cores" => usage.cores,
            "ram" => usage.ram,
            "server_groups" => i64::try_from(groups).unwrap_or(i64::MAX),
            _ => 0,
        };
        let limit = shown_limit(&limits, name);
        set.insert(
            name.to_owned(),
            json!({"limit": limit, "in_use": in_use, "reserved": 0}),
        );
    }
    ok(json!({ "quota_set": set }))
}

/// `PUT /os-quota-sets/{project}`
pub async fn update(call: Call, Path(project): Path<String>, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["quota_set"])?;
    let fields = within(&body, "quota_set")?;
    let mut known: Vec<&str> = fields_of(&call).collect();
    known.extend(["force", "tenant_id"]);
    fields.only(&known)?;
    let force = boolean(&fields, "force")?.unwrap_or(false);
    let mut new: Vec<(&'static str, i64)> = Vec::new();
    for name in fields_of(&call) {
        if let Some(limit) = fields.int(name, -1, i64::from(i32::MAX))? {
            if quotas::default_limit(name).is_none() {
                return Err(fields.wrong(name, "is not limited by this release"));
            }
            new.push((name, limit));
        }
    }
    let limits = tx!(call, |tx| [project, new] {
        let usage = quotas::usage(tx, &project).await?;
        for (name, limit) in new {
            let used = match name {
                "instances" => usage.instances,
                "cores" => usage.cores,
                "ram" => usage.ram,
                _ => 0,
            };
            if !force && limit >= 0 && limit < used {
                return Err(bad(format!(
                    "Quota limit {limit} for {name} must be greater than or equal to already used and reserved {used}."
                )));
            }
            quotas::set(tx, &project, name, limit).await?;
        }
        Ok::<_, ApiError>(quotas::limits(tx, &project).await?)
    })?;
    ok(json!({"quota_set": quota_set(&call, &limits)}))
}

/// `DELETE /os-quota-sets/{project}`
pub async fn delete(call: Call, Path(project): Path<String>) -> Reply {
    tx!(call, |tx| [project] { quotas::reset(tx, &project).await })?;
    status(StatusCode::ACCEPTED)
}

/// What a project's servers used between two times, in Unix milliseconds.
struct Span {
    start: i64,
    stop: i64,
}

impl Span {
    fn parse(call: &Call, params: &Params) -> Result<Self, ApiError> {
        let now = call.now();
        let time = |name: &str, default: i64| match params.get(name) {
            None => Ok(default),
            Some(text) => {
                time::parse(text).ok_or_else(|| bad(format!("Invalid {name} time: {}", clip(text))))
            }
        };
        // Nova's default is the last four weeks.
        let span = Self {
            start: time("start", now.saturating_sub(28 * 24 * 3_600_000))?,
            stop: time("end", now)?,
        };
        if span.start >= span.stop {
            return Err(bad(
                "Invalid start time. The start time cannot occur after the end time.",
            ));
        }
        Ok(span)
    }

    fn hours(&self, instance: &Instance) -> f64 {
        let Some(from) = instance.launched_at else {
            return 0.0;
        };
        let to = instance.deleted_at.unwrap_or(self.stop).min(self.stop);
        let millis = to.saturating_sub(from.max(self.start)).max(0);
        // Hours as Nova gives them are a fraction; 2^53 ms is 285,000 years.
        millis as f64 / 3_600_000.0
    }

    fn usage(&self, project: &str, instances: &[Instance], call: &Call, detailed: bool) -> Value {
        let (mut hours, mut vcpus, mut ram, mut disk) = (0.0, 0.0, 0.0, 0.0);
        let mut servers = Vec::new();
        for i in instances {
            let own = self.hours(i);
            hours += own;
            vcpus += own * i.flavor.vcpus as f64;
            ram += own * i.flavor.ram as f64;
            disk += own * i.flavor.disk as f64;
            let until = i.deleted_at.unwrap_or(call.now());
            let uptime = i
                .launched_at
                .map_or(0, |at| until.saturating_sub(at) / 1000);
            servers.push(json!({
                "instance_id": i.id,
                "name": i.name,
                "tenant_id": i.project_id,
                "flavor": i.flavor.name,
                "hours": own,
                "vcpus": i.flavor.vcpus,
                "memory_mb": i.flavor.ram,
                "local_gb": i.flavor.disk,
                "started_at": usage_time(i.launched_at.unwrap_or(i.created_at)),
                "ended_at": i.deleted_at.map(usage_time),
                "state": if i.vm_state == VmState::Deleted { "terminated" } else { i.vm_state.as_str() },
                "uptime": uptime,
            }));
        }
        let mut value = json!({
            "tenant_id": project,
            "start": usage_time(self.start),
            "stop": usage_time(self.stop),
            "total_hours": hours,
            "total_vcpus_usage": vcpus,
            "total_memory_mb_usage": ram,
            "total_local_gb_usage": disk,
        });
        if detailed {
            value["server_usages"] = json!(servers);
        }
        value
    }
}

fn usage_time(millis: i64) -> String {
    time::micros(millis).trim_end_matches('Z').to_owned()
}

async fn used(
    call: &Call,
    span: &Span,
    project: Option<String>,
) -> Result<Vec<Instance>, ApiError> {
    let mut which = Condition::owned("project_id", project.as_deref());
    which.and(Condition::new(
        "launched_at < ? AND (deleted_at IS NULL OR deleted_at > ?)",
        [span.stop.into(), span.start.into()],
    ));
    Ok(read!(call, |tx| [which] {
        let mut all = instances::which(tx, &which).await?;
        all.sort_by_key(|i| std::cmp::Reverse((i.created_at, i.id)));
        Ok::<_, StoreError>(all)
    })?)
}

/// `GET /os-simple-tenant-usage`
pub async fn usages(call: Call, params: Params) -> Reply {
    let span = Span::parse(&call, &params)?;
    let mut projects: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    for instance in used(&call, &span, None).await? {
        let list = projects.entry(instance.project_id.clone()).or_default();
        list.push(instance);
    }
    let detailed = params.get("detailed") == Some("1");
    let all: Vec<Value> = projects
        .iter()
        .map(|(project, list)| span.usage(project, list, &call, detailed))
        .collect();
    ok(json!({ "tenant_usages": all }))
}

/// `GET /os-simple-tenant-usage/{project}`
pub async fn usage(call: Call, Path(project): Path<String>, params: Params) -> Reply {
    may_see(&call, &project)?;
    let span = Span::parse(&call, &params)?;
    let list = used(&call, &span, Some(project.clone())).await?;
    if list.is_empty() {
        return ok(json!({"tenant_usage": {}}));
    }
    ok(json!({"tenant_usage": span.usage(&project, &list, &call, true)}))
}
