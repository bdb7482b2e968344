//! `POST /servers/{id}/action`: one key names the action.

use super::common::{
    Call, Reply, bad, conflict, not_found, object, ok, read, status, tx, unsupported, within,
};
use super::servers::{act, check_lock, find, save, unavailable};
use crate::instances::Instance;
use crate::workflow::Kind;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{Fields, clip, parse};
use berth_controller_core::{ApiError, Service, params};
use berth_rpc::Address;
use berth_rpc_types::{Read, ReadReply};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a console may take to be read.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Each action's name in the table of policies.
const POLICIES: &[(&str, &str)] = &[
    ("os-start", "os_compute_api:servers:start"),
    ("os-stop", "os_compute_api:servers:stop"),
    ("pause", "os_compute_api:os-pause-server:pause"),
    ("unpause", "os_compute_api:os-pause-server:unpause"),
    ("reboot", "os_compute_api:servers:reboot"),
    ("lock", "os_compute_api:os-lock-server:lock"),
    ("unlock", "os_compute_api:os-lock-server:unlock"),
    ("os-getConsoleOutput", "os_compute_api:os-console-output"),
    (
        "os-resetState",
        "os_compute_api:os-admin-actions:reset_state",
    ),
];

/// Actions that Nova has and this release has not. They are refused by name.
const NOT_YET: &[&str] = &[
    "addFixedIp",
    "addFloatingIp",
    "addSecurityGroup",
    "changePassword",
    "confirmResize",
    "createBackup",
    "createImage",
    "evacuate",
    "forceDelete",
    "injectNetworkInfo",
    "migrate",
    "os-getSerialConsole",
    "os-getSPICEConsole",
    "os-getRDPConsole",
    "os-getVNCConsole",
    "os-migrateLive",
    "rebuild",
    "removeFixedIp",
    "removeFloatingIp",
    "removeSecurityGroup",
    "rescue",
    "resetNetwork",
    "resize",
    "restore",
    "resume",
    "revertResize",
    "shelve",
    "shelveOffload",
    "suspend",
    "trigger_crash_dump",
    "unrescue",
    "unshelve",
];

/// `POST /servers/{id}/action`
pub async fn action(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = parse(Service::Compute, &bytes)?;
    let name = match body.as_object().map(|map| map.keys().collect::<Vec<_>>()) {
        Some(keys) if keys.len() == 1 => keys.first().map(|k| (*k).clone()).unwrap_or_default(),
        _ => return Err(bad("An action is an object with one key, its name.")),
    };
    // One that is not in the list is carried out for nobody.
    let Some((_, policy)) = POLICIES.iter().find(|(action, _)| *action == name) else {
        return not_here(&call, &id, &name).await;
    };
    call.context.require(policy)?;
    match name.as_str() {
        "os-start" => simple(&call, &id, Kind::Start, "start").await,
        "os-stop" => simple(&call, &id, Kind::Stop, "stop").await,
        "pause" => simple(&call, &id, Kind::Pause, "pause").await,
        "unpause" => simple(&call, &id, Kind::Unpause, "unpause").await,
        "reboot" => reboot(&call, &id, &body).await,
        "lock" => {
            let why = lock_reason(&call, &body)?;
            lock(&call, &id, true, why).await
        }
        "unlock" => lock(&call, &id, false, None).await,
        "os-getConsoleOutput" => console_output(&call, &id, &body).await,
        "os-resetState" => reset_state(&call, &id, &body, &bytes).await,
        _ => not_here(&call, &id, &name).await,
    }
}

async fn not_here(call: &Call, id: &str, name: &str) -> Reply {
    if !NOT_YET.contains(&name) {
        return Err(bad(format!("There is no such action: {}", clip(name))));
    }
    let id = id.to_owned();
    tx!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    Err(unsupported(&format!("The action {name}")))
}

async fn simple(call: &Call, id: &str, kind: Kind, verb: &str) -> Reply {
    act(call, id, kind, verb, json!({})).await?;
    status(StatusCode::ACCEPTED)
}

async fn reboot(call: &Call, id: &str, body: &Value) -> Reply {
    let fields = within(body, "reboot")?;
    fields.only(&["type"])?;
    let kind = fields.text("type", 16)?.unwrap_or_default();
    let soft = match kind.to_ascii_uppercase().as_str() {
        "SOFT" => true,
        "HARD" => false,
        _ => return Err(fields.wrong("type", "is to be SOFT or HARD")),
    };
    act(call, id, Kind::Reboot, "reboot", json!({ "soft": soft })).await?;
    status(StatusCode::ACCEPTED)
}

/// Locks for everybody but administrators. What an administrator locked, only one unlocks.
/// Since 2.73 who locks may say why.
fn lock_reason(call: &Call, body: &Value) -> Result<Option<String>, ApiError> {
    match body.get("lock") {
        Some(value) if call.since(73) && !value.is_null() => {
            let fields = Fields::of(Service::Compute, value, "lock")?;
            fields.only(&["locked_reason"])?;
            let why = fields.text("locked_reason", 255)?;
            match why.as_deref() {
                Some("") => Err(fields.wrong("locked_reason", "is to have 1 to 255 characters")),
                _ => Ok(why),
            }
        }
        _ => Ok(None),
    }
}

async fn lock(call: &Call, id: &str, locked: bool, why: Option<String>) -> Reply {
    let id = id.to_owned();
    tx!(call, |tx| [call, id, why] {
        let mut instance = find(tx, &call, &id).await?;
        let by_admin = instance.body.locked_by.as_deref() == Some("admin");
        if instance.locked && by_admin {
            let overrides = "os_compute_api:os-lock-server:unlock:unlock_override";
            call.context.require(overrides)?;
        }
        instance.locked = locked;
        instance.body.locked_reason = why;
        let owner = instance.project_id == call.context.project_id;
        instance.body.locked_by = locked.then(|| if owner { "owner" } else { "admin" }.to_owned());
        save(tx, &call, &instance).await
    })?;
    status(StatusCode::ACCEPTED)
}

async fn console_output(call: &Call, id: &str, body: &Value) -> Reply {
    let fields = match body.get("os-getConsoleOutput") {
        Some(Value::Null) | None => None,
        Some(value) => Some(Fields::of(Service::Compute, value, "os-getConsoleOutput")?),
    };
    let lines = match &fields {
        None => None,
        Some(fields) => {
            fields.only(&["length"])?;
            fields.int("length", -1, i64::from(u32::MAX))?
        }
    };
    // Nova's -1 is all there is.
    let lines = lines.and_then(|n| u32::try_from(n).ok());
    let id = id.to_owned();
    let instance: Instance = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    let (Some(host), Some(vmm_id)) = (instance.host_id, instance.active_vmm_id) else {
        return Err(conflict(format!("Instance {} is not ready", instance.id)));
    };
    let read = Read::ConsoleLog {
        vmm_id,
        lines,
        request_id: call.context.request_id.clone(),
    };
    let payload = serde_json::to_vec(&read)
        .map_err(|e| unavailable(format!("The question cannot be written: {e}")))?;
    let address = Address::AgentReads(host);
    let reply = call
        .app
        .transport
        .read(address, payload.into(), CONSOLE_TIMEOUT)
        .await
        .map_err(|e| {
            unavailable(format!(
                "The host of instance {} did not give its console: {e}. Is its agent up?",
                instance.id
            ))
        })?;
    match serde_json::from_slice(&reply) {
        Ok(ReadReply::ConsoleLog { output }) => ok(json!({ "output": output })),
        Ok(ReadReply::Error { message }) => Err(not_found(format!(
            "Unable to get console log of instance {}: {message}",
            instance.id
        ))),
        Err(e) => Err(unavailable(format!(
            "The host's answer is not understood: {e}. Is its agent of this release?"
        ))),
    }
}

/// For administrators: says what a server's state is, where Berth has lost track. Not while an
/// operation is open: its result would be folded into a state that somebody made up.
async fn reset_state(call: &Call, id: &str, body: &Value, bytes: &Bytes) -> Reply {
    object(bytes, &["os-resetState"])?;
    let fields = within(body, "os-resetState")?;
    fields.only(&["state"])?;
    let state = match fields.text("state", 16)?.as_deref() {
        Some("active") => "active",
        Some("error") => "error",
        _ => return Err(fields.wrong("state", "is to be active or error")),
    };
    let id = id.to_owned();
    tx!(call, |tx| [call, id] {
        let instance = find(tx, &call, &id).await?;
        check_lock(&call, &instance)?;
        let changed = tx
            .execute(
                "UPDATE instances SET vm_state = $1, task_state = NULL, updated_at = $2, \
                 generation = generation + 1 \
                 WHERE id = $3 AND operation_id IS NULL AND deleted_at IS NULL",
                params![state, call.now(), instance.id],
            )
            .await?;
        if changed == 0 {
            return Err(conflict(format!(
                "Instance {} has an open operation; wait for its end, or delete the instance.",
                instance.id
            )));
        }
        Ok::<(), ApiError>(())
    })?;
    status(StatusCode::ACCEPTED)
}
