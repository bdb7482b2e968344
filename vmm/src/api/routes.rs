//! From a request to an [`Action`], from its answer to a body.
//!
//! Guarantees: paths, fields, codes and texts are Firecracker's
//! (`src/firecracker/src/api_server/parsed_request.rs`); a path or field that neither it nor Berth
//! has is refused. What Firecracker has and this VMM has not yet is refused with a text that says
//! so.

use berth_vmm_api as api;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{Answer, Method, Request};
use crate::action::{self, Action};
use crate::driver::ActionError;

/// A request that is no action.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The id in the path is missing.
    #[error("The ID cannot be empty.")]
    EmptyId,
    /// The id in the path is no id.
    #[error("API Resource IDs can only contain alphanumeric characters and underscores.")]
    InvalidId,
    /// The id in the path is another than that in the body.
    #[error("The id from the path does not match the id from the body!")]
    IdMismatch,
    /// There is no such path, or not with this method.
    #[error("Invalid request method and/or path: {0} {1}.")]
    InvalidPathMethod(Method, String),
    /// The body is not what the path takes.
    #[error("An error occurred when deserializing the json body of a request: {0}.")]
    Json(#[from] serde_json::Error),
    /// The body is there and should not be, or the other way round.
    #[error("{0}")]
    Body(&'static str),
    /// Firecracker's, and not ours yet.
    #[error("{0} is not supported by this VMM yet.")]
    NotYet(&'static str),
}

/// An action, and whether the request used a deprecated field.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// What is asked for.
    pub action: Action,
    /// For the header that says so.
    pub deprecated: bool,
}

impl From<Action> for Parsed {
    fn from(action: Action) -> Parsed {
        Parsed {
            action,
            deprecated: false,
        }
    }
}

/// What a request asks for.
///
/// # Errors
/// If it asks for nothing that there is.
pub fn parse(request: &Request) -> Result<Parsed, RequestError> {
    let mut words = request.path.trim_start_matches('/').split_terminator('/');
    let resource = words.next().unwrap_or("");
    let rest = words.next();
    let body = request.body.as_deref();
    match (request.method, resource, body) {
        (Method::Get, "", None) => Ok(Action::GetInfo.into()),
        (Method::Get, "version", None) => Ok(Action::GetVersion.into()),
        (Method::Get, "vm", None) if rest == Some("config") => Ok(Action::GetFullConfig.into()),
        (Method::Get, "machine-config", None) => Ok(Action::GetMachine.into()),
        (Method::Get, _, Some(_)) => Err(RequestError::Body("GET request cannot have a body.")),
        (Method::Put, _, Some(body)) => put(resource, rest, body),
        (Method::Put, _, None) => Err(RequestError::Body("Empty PUT request.")),
        (Method::Patch, _, Some(body)) => patch(resource, rest, body),
        (Method::Patch, _, None) => Err(RequestError::Body("Empty PATCH request.")),
        (Method::Delete, "drives" | "pmem" | "network-interfaces", None) => {
            Err(RequestError::NotYet("Hot-unplug"))
        }
        (Method::Delete, _, Some(_)) => Err(RequestError::Body("Empty Delete request.")),
        (method, _, None) => Err(unknown(method, resource)),
    }
}

fn unknown(method: Method, resource: &str) -> RequestError {
    RequestError::InvalidPathMethod(method, resource.to_owned())
}

fn put(resource: &str, rest: Option<&str>, body: &[u8]) -> Result<Parsed, RequestError> {
    Ok(match resource {
        "actions" => put_action(body)?.into(),
        "boot-source" => Action::ConfigureBootSource(json(body)?).into(),
        "machine-config" => {
            let config: api::MachineConfig = json(body)?;
            let deprecated = config.cpu_template.is_some();
            Parsed {
                action: Action::ConfigureMachine(config),
                deprecated,
            }
        }
        "drives" => {
            let id = checked_id(rest)?;
            let config: api::Drive = json(body)?;
            same_id(id, &config.drive_id)?;
            Action::InsertDrive(config).into()
        }
        "network-interfaces" => {
            let id = checked_id(rest)?;
            let config: api::NetworkInterface = json(body)?;
            same_id(id, &config.iface_id)?;
            Action::InsertInterface(config).into()
        }
        "serial" => Action::ConfigureSerial(json(body)?).into(),
        "logger" => Action::ConfigureLogger(json(body)?).into(),
        "metrics" => Action::ConfigureMetrics(json(body)?).into(),
        other => return Err(not_yet(other).unwrap_or_else(|| unknown(Method::Put, other))),
    })
}

fn put_action(body: &[u8]) -> Result<Action, RequestError> {
    let request: api::ActionRequest = json(body)?;
    Ok(match request.action_type {
        api::ActionType::FlushMetrics => Action::FlushMetrics,
        api::ActionType::InstanceStart => Action::Start,
        api::ActionType::SendCtrlAltDel | api::ActionType::PowerButton => Action::PressPowerButton,
        api::ActionType::Reset => Action::Reset,
        api::ActionType::Stop => Action::Stop,
    })
}

fn patch(resource: &str, rest: Option<&str>, body: &[u8]) -> Result<Parsed, RequestError> {
    Ok(match resource {
        "vm" => {
            let request: api::VmStateRequest = json(body)?;
            match request.state {
                api::VmStateUpdate::Paused => Action::Pause.into(),
                api::VmStateUpdate::Resumed => Action::Resume.into(),
            }
        }
        "machine-config" => {
            let update: api::MachineConfigUpdate = json(body)?;
            let deprecated = update.cpu_template.is_some();
            Parsed {
                action: Action::UpdateMachine(update),
                deprecated,
            }
        }
        "drives" => {
            let id = checked_id(rest)?;
            let update: api::DriveUpdate = json(body)?;
            same_id(id, &update.drive_id)?;
            Action::UpdateDrive(update).into()
        }
        "network-interfaces" => {
            let id = checked_id(rest)?;
            let update: api::NetworkInterfaceUpdate = json(body)?;
            same_id(id, &update.iface_id)?;
            Action::UpdateInterface(update).into()
        }
        other => {
            let known = matches!(other, "balloon" | "mmds" | "pmem" | "hotplug");
            let refusal = known.then(|| not_yet(other)).flatten();
            return Err(refusal.unwrap_or_else(|| unknown(Method::Patch, other)));
        }
    })
}

/// What Firecracker has.
fn not_yet(resource: &str) -> Option<RequestError> {
    let what = match resource {
        "balloon" => "The balloon device",
        "cpu-config" => "A custom CPU template",
        "pmem" => "The pmem device",
        "mmds" => "The metadata service",
        "snapshot" => "A snapshot",
        "vsock" => "The vsock device",
        "entropy" => "The entropy device",
        "hotplug" => "Memory hotplug",
        _ => return None,
    };
    Some(RequestError::NotYet(what))
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    Ok(serde_json::from_slice(body)?)
}

fn checked_id(id: Option<&str>) -> Result<&str, RequestError> {
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or(RequestError::EmptyId)?;
    if id.chars().all(|c| c == '_' || c.is_alphanumeric()) {
        Ok(id)
    } else {
        Err(RequestError::InvalidId)
    }
}

fn same_id(path: &str, body: &str) -> Result<(), RequestError> {
    if path == body {
        Ok(())
    } else {
        Err(RequestError::IdMismatch)
    }
}

/// The answer to an action.
pub fn answer(result: Result<action::Answer, ActionError>) -> Answer {
    match result {
        Ok(action::Answer::Empty) => Answer {
            status: 204,
            body: None,
            deprecated: false,
            close: false,
        },
        Ok(action::Answer::Info(info)) => ok(&info),
        Ok(action::Answer::Version(version)) => ok(&version),
        Ok(action::Answer::Machine(machine)) => ok(&machine),
        Ok(action::Answer::FullConfig(config)) => ok(&config),
        Err(error) => fault(400, error.to_string()),
    }
}

fn ok(value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => Answer {
            status: 200,
            body: Some(body),
            deprecated: false,
            close: false,
        },
        // Types of ours that cannot be written are a bug, and no reason to end a guest.
        Err(error) => fault(500, error.to_string()),
    }
}

/// A refusal.
pub fn fault(status: u16, fault_message: String) -> Answer {
    let body = serde_json::to_string(&api::FaultMessage { fault_message }).ok();
    Answer {
        status,
        body,
        deprecated: false,
        close: false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(method: Method, path: &str, body: &str) -> Result<Parsed, RequestError> {
        let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
        parse(&Request {
            method,
            path: path.to_owned(),
            body,
            request_id: None,
            close: false,
        })
    }

    fn refusal(method: Method, path: &str, body: &str) -> String {
        request(method, path, body).unwrap_err().to_string()
    }

    #[test]
    fn each_path_is_an_action() {
        let get = |path| request(Method::Get, path, "").unwrap().action;
        assert_eq!(get("/"), Action::GetInfo);
        assert_eq!(get("/vm/config"), Action::GetFullConfig);
        assert_eq!(get("/machine-config"), Action::GetMachine);
        let action = |kind: &str| {
            let body = format!(r#"{{"action_type":"{kind}"}}"#);
            request(Method::Put, "/actions", &body).unwrap().action
        };
        assert_eq!(action("InstanceStart"), Action::Start);
        assert_eq!(action("SendCtrlAltDel"), Action::PressPowerButton);
        assert_eq!(action("Reset"), Action::Reset);
        let paused = request(Method::Patch, "/vm", r#"{"state":"Paused"}"#).unwrap();
        assert_eq!(paused.action, Action::Pause);
    }

    #[test]
    fn refusals_have_firecrackers_words() {
        assert_eq!(
            refusal(Method::Patch, "/boot-source", "{}"),
            "Invalid request method and/or path: PATCH boot-source."
        );
        assert_eq!(
            refusal(Method::Put, "/machine-config", r#"{"mem_size_mib": 128}"#),
            "An error occurred when deserializing the json body of a request: missing field \
             `vcpu_count` at line 1 column 21."
        );
        let unknown = refusal(
            Method::Patch,
            "/drives/a",
            r#"{"drive_id":"a","is_read_only":true}"#,
        );
        assert!(
            unknown.contains("unknown field `is_read_only`"),
            "{unknown}"
        );
        let variant = refusal(Method::Put, "/actions", r#"{"action_type":"foo"}"#);
        assert!(
            variant.contains("unknown variant `foo`, expected one of"),
            "{variant}"
        );
        assert_eq!(
            refusal(Method::Put, "/drives", "{}"),
            "The ID cannot be empty."
        );
        assert!(refusal(Method::Put, "/drives/a-b", "{}").starts_with("API Resource IDs can only"));
        let other = r#"{"drive_id":"b","is_root_device":false}"#;
        assert!(refusal(Method::Put, "/drives/a", other).contains("does not match"));
        assert_eq!(
            refusal(Method::Get, "/version", "{}"),
            "GET request cannot have a body."
        );
        assert_eq!(refusal(Method::Put, "/actions", ""), "Empty PUT request.");
    }

    #[test]
    fn what_is_not_there_yet_says_so() {
        let text = refusal(Method::Put, "/vsock", r#"{"guest_cid":3,"uds_path":"x"}"#);
        assert_eq!(text, "The vsock device is not supported by this VMM yet.");
    }

    #[test]
    fn the_deprecated_field_is_marked_even_if_it_is_none() {
        let body = r#"{"vcpu_count":2,"mem_size_mib":256,"cpu_template":"None"}"#;
        assert!(
            request(Method::Put, "/machine-config", body)
                .unwrap()
                .deprecated
        );
    }
}
