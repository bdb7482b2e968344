//! What `POST /servers` may say: its form, field by field, and nothing looked up yet.
//!
//! Nothing is taken that is not enforced (PROTOCOL.md, rule 12): what Nova takes and this
//! release does not do is refused by name. `adminPass` is taken and not used, and the answer has
//! none, which is how Nova says so (`enable_instance_password = False`).

use super::common::{
    Call, bad, boolean, description, metadata, name, object, opt_name, tags, unsupported, uuid,
    within,
};
use super::networking::{self, Wanted};
use super::servers::{access_ip, disk_config, hostname};
use crate::instances::{Body, Hints};
use axum::body::Bytes;
use base64::Engine as _;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::{ApiError, Service};
use berth_rpc_types::{ImageId, InstanceId};
use serde_json::Value;

/// The most servers that one request makes.
const MAX_COUNT: i64 = 200;

/// A request to create servers, its form checked. What it names is looked up later.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub name: String,
    pub flavor_ref: String,
    pub image_id: ImageId,
    pub key_name: Option<String>,
    pub networks: Wanted,
    pub security_groups: Option<Vec<String>>,
    pub body: Body,
    pub min_count: i64,
    pub max_count: i64,
    pub return_reservation_id: bool,
}

/// Parses a body.
///
/// # Errors
/// 400 that names the field; 403 for what only an administrator may ask.
pub(super) fn parse(call: &Call, bytes: &Bytes) -> Result<Request, ApiError> {
    let hint_names = ["os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"];
    let body = object(bytes, &["server", hint_names[0], hint_names[1]])?;
    let fields = within(&body, "server")?;
    let mut known = vec![
        "name",
        "imageRef",
        "flavorRef",
        "adminPass",
        "metadata",
        "networks",
        "OS-DCF:diskConfig",
        "accessIPv4",
        "accessIPv6",
        "availability_zone",
        "block_device_mapping",
        "block_device_mapping_v2",
        "config_drive",
        "key_name",
        "min_count",
        "max_count",
        "return_reservation_id",
        "security_groups",
        "user_data",
    ];
    for (field, there) in [
        ("description", call.since(19)),
        ("tags", call.since(52)),
        ("personality", !call.since(57)),
        ("trusted_image_certificates", call.since(63)),
        ("host", call.since(74)),
        ("hypervisor_hostname", call.since(74)),
        ("hostname", call.since(90)),
    ] {
        if there {
            known.push(field);
        }
    }
    fields.only(&known)?;
    let mut hints = Hints::default();
    for name in hint_names {
        if body.get(name).is_some() {
            hints = scheduler_hints(&within(&body, name)?)?;
        }
    }
    if fields
        .list("block_device_mapping")?
        .is_some_and(|l| !l.is_empty())
    {
        return Err(unsupported("server.block_device_mapping"));
    }
    if fields.list("personality")?.is_some_and(|l| !l.is_empty()) {
        return Err(unsupported("server.personality"));
    }
    // Taken, not used, not answered; its form is checked all the same.
    fields.text("adminPass", 255)?;
    if fields
        .list("trusted_image_certificates")?
        .is_some_and(|l| !l.is_empty())
    {
        return Err(unsupported("server.trusted_image_certificates"));
    }
    let (requested_zone, mut requested_host) = zone(call, &fields)?;
    if let Some(host) = destination(call, &fields)? {
        if requested_host.is_some() {
            return Err(bad(
                "server.availability_zone names a host, and so does server.host: give one of them.",
            ));
        }
        requested_host = Some(host);
    }
    let (min_count, max_count) = counts(&fields)?;
    let meta = match fields.object("metadata")? {
        Some(meta) => metadata(&meta)?,
        None => Default::default(),
    };
    let body = Body {
        metadata: meta,
        user_data: user_data(&fields)?,
        tags: tags(&fields, "tags")?.unwrap_or_default(),
        description: description(&fields, 255)?.flatten(),
        hints,
        requested_zone,
        requested_host,
        config_drive: boolean(&fields, "config_drive")?.unwrap_or(false),
        access_ip_v4: access_ip(&fields, "accessIPv4")?.flatten(),
        access_ip_v6: access_ip(&fields, "accessIPv6")?.flatten(),
        manual_disk_config: disk_config(&fields)?.unwrap_or(false),
        hostname: hostname(call, &fields)?,
        ..Body::default()
    };
    Ok(Request {
        name: name(&fields, "name")?,
        flavor_ref: flavor_ref(&fields)?,
        image_id: image_ref(&fields)?,
        key_name: opt_name(&fields, "key_name")?,
        networks: networks(call, &fields)?,
        security_groups: security_groups(&fields)?,
        body,
        min_count,
        max_count,
        return_reservation_id: boolean(&fields, "return_reservation_id")?.unwrap_or(false),
    })
}

/// An id; Nova takes a number too. Clients of old send the flavor's whole link.
fn flavor_ref(fields: &Fields<'_>) -> Result<String, ApiError> {
    let text = match fields.get("flavorRef") {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err(fields.wrong("flavorRef", "is to be a string")),
        None => return Err(fields.wrong("flavorRef", "is missing")),
    };
    let id = text.rsplit('/').next().unwrap_or_default().trim();
    if id.is_empty() || id.chars().count() > 255 {
        return Err(fields.wrong("flavorRef", "is to have 1 to 255 characters"));
    }
    Ok(id.to_owned())
}

/// What Nova takes of a device's mapping, and no local disk made from an image has.
const VOLUMES_ONLY: &[&str] = &[
    "volume_size",
    "device_name",
    "no_device",
    "guest_format",
    "device_type",
    "disk_bus",
    "tag",
    "volume_id",
    "snapshot_id",
    "connection_info",
    "virtual_name",
];

/// `imageRef`, or the one mapping that means the same: this image, copied to a local disk.
fn image_ref(fields: &Fields<'_>) -> Result<ImageId, ApiError> {
    let image = fields.text("imageRef", 255)?.filter(|t| !t.is_empty());
    let image = image
        .map(|text| {
            let id = text.rsplit('/').next().and_then(uuid);
            id.ok_or_else(|| fields.wrong("imageRef", "is no UUID"))
        })
        .transpose()?;
    let mapping = fields.list("block_device_mapping_v2")?.unwrap_or_default();
    let [only] = mapping else {
        if mapping.is_empty() {
            return match image {
                Some(id) => Ok(ImageId(id)),
                None => Err(bad(
                    "Invalid imageRef provided: server.imageRef is missing.",
                )),
            };
        }
        return Err(unsupported(
            "server.block_device_mapping_v2 with more than one device",
        ));
    };
    let item = Fields::of(Service::Compute, only, "server.block_device_mapping_v2[0]")?;
    let taken = [
        "uuid",
        "source_type",
        "destination_type",
        "boot_index",
        "delete_on_termination",
        "image_id",
    ];
    item.only(&[&taken[..], VOLUMES_ONLY].concat())?;
    let source = item.text("source_type", 16)?;
    let destination = item.text("destination_type", 16)?;
    if source.as_deref() != Some("image") || destination.as_deref() != Some("local") {
        return Err(unsupported(
            "server.block_device_mapping_v2 other than source_type image to destination_type local",
        ));
    }
    for field in VOLUMES_ONLY {
        if item.get(field).is_some() {
            return Err(unsupported(&format!(
                "server.block_device_mapping_v2[0].{field}"
            )));
        }
    }
    if item.int("boot_index", -1, 255)?.is_some_and(|i| i != 0) {
        return Err(item.wrong("boot_index", "is to be 0: there is one disk"));
    }
    if boolean(&item, "delete_on_termination")? == Some(false) {
        return Err(item.wrong(
            "delete_on_termination",
            "is to be true: a local disk goes with its server",
        ));
    }
    let text = item.text("uuid", 255)?.or(item.text("image_id", 255)?);
    let mapped = text.as_deref().and_then(uuid);
    match (mapped, image) {
        (None, _) => Err(item.wrong("uuid", "is no UUID")),
        (Some(mapped), Some(image)) if mapped != image => {
            Err(item.wrong("uuid", "is another image than server.imageRef"))
        }
        (Some(mapped), _) => Ok(ImageId(mapped)),
    }
}

fn user_data(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let Some(text) = fields.text("user_data", 65_535)? else {
        return Ok(None);
    };
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    match base64::engine::general_purpose::STANDARD.decode(&compact) {
        Ok(_) => Ok(Some(compact)),
        Err(e) => Err(fields.wrong("user_data", &format!("is not base64: {e}"))),
    }
}

fn counts(fields: &Fields<'_>) -> Result<(i64, i64), ApiError> {
    let min = fields.int("min_count", 1, MAX_COUNT)?;
    let max = fields.int("max_count", 1, MAX_COUNT)?;
    let min_count = min.unwrap_or(1);
    let max_count = max.unwrap_or(min_count);
    if min_count > max_count {
        return Err(bad("min_count must be <= max_count"));
    }
    Ok((min_count, max_count))
}

/// `host` or `hypervisor_hostname`, for administrators: a host has one hypervisor of its name.
fn destination(call: &Call, fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let (host, node) = (
        opt_name(fields, "host")?,
        opt_name(fields, "hypervisor_hostname")?,
    );
    if host.is_none() && node.is_none() {
        return Ok(None);
    }
    call.context
        .require("os_compute_api:servers:create:requested_destination")?;
    match (host, node) {
        (Some(host), Some(node)) if host != node => Err(bad(format!(
            "server.hypervisor_hostname {} is none of host {}.",
            clip(&node),
            clip(&host)
        ))),
        (host, node) => Ok(host.or(node)),
    }
}

/// `zone`, or `zone:host` for administrators.
fn zone(call: &Call, fields: &Fields<'_>) -> Result<(Option<String>, Option<String>), ApiError> {
    let Some(text) = opt_name(fields, "availability_zone")? else {
        return Ok((None, None));
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (zone, host) = match parts.as_slice() {
        [zone] => (*zone, None),
        [zone, host] => (*zone, Some(*host)),
        // A host has one hypervisor: a node of the same name is the host.
        [zone, host, node] if host == node || host.is_empty() => (*zone, Some(*node)),
        _ => return Err(fields.wrong("availability_zone", "is to be zone or zone:host")),
    };
    if host.is_some() {
        let forced = "os_compute_api:servers:create:forced_host";
        call.context.require(forced)?;
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok((some(zone), host.and_then(some)))
}

fn scheduler_hints(fields: &Fields<'_>) -> Result<Hints, ApiError> {
    // Those that no filter here keeps are refused, not stored.
    if let Some((name, _)) = fields
        .iter()
        .find(|(name, _)| !["group", "same_host", "different_host"].contains(&name.as_str()))
    {
        return Err(fields.wrong(
            &clip(name),
            "is not kept by this scheduler; group, same_host and different_host are",
        ));
    }
    let servers = |name: &str| -> Result<Vec<InstanceId>, ApiError> {
        let texts = match fields.get(name) {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(_) => fields.texts(name)?.unwrap_or_default(),
        };
        let parsed = texts.iter().map(|t| uuid(t).map(InstanceId));
        parsed
            .collect::<Option<_>>()
            .ok_or_else(|| fields.wrong(name, "is to be a server's UUID, or a list of them"))
    };
    let group = match fields.get("group") {
        Some(Value::Array(list)) => list.first().and_then(Value::as_str).map(str::to_owned),
        _ => fields.text("group", 255)?,
    };
    if group.as_deref().is_some_and(|g| uuid(g).is_none()) {
        return Err(fields.wrong("group", "is no UUID"));
    }
    Ok(Hints {
        group,
        same_host: servers("same_host")?,
        different_host: servers("different_host")?,
    })
}

fn networks(call: &Call, fields: &Fields<'_>) -> Result<Wanted, ApiError> {
    match fields.get("networks") {
        None if call.since(37) => Err(fields.wrong("networks", "is missing")),
        None => Ok(Wanted::Whatever),
        Some(Value::String(text)) if call.since(37) => match text.as_str() {
            "none" => Ok(Wanted::None),
            "auto" => Ok(Wanted::Auto),
            _ => Err(fields.wrong("networks", "is to be a list, 'auto' or 'none'")),
        },
        Some(_) => {
            let list = fields.list("networks")?.unwrap_or_default();
            if list.is_empty() {
                return Ok(Wanted::Whatever);
            }
            let tagged = call.since(42) || (32..=36).contains(&call.version.0);
            let mut wanted = Vec::with_capacity(list.len());
            for (i, value) in list.iter().enumerate() {
                let path = format!("server.networks[{i}]");
                let item = Fields::of(Service::Compute, value, &path)?;
                let mut known = vec!["uuid", "port", "fixed_ip"];
                if tagged {
                    known.push("tag");
                }
                item.only(&known)?;
                if item.get("tag").is_some() {
                    return Err(unsupported(&format!("{path}.tag")));
                }
                wanted.push(networking::one(&item)?);
            }
            Ok(Wanted::These(wanted))
        }
    }
}

fn security_groups(fields: &Fields<'_>) -> Result<Option<Vec<String>>, ApiError> {
    let Some(list) = fields.list("security_groups")? else {
        return Ok(None);
    };
    let mut names = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let path = format!("server.security_groups[{i}]");
        let item = Fields::of(Service::Compute, value, &path)?;
        item.only(&["name"])?;
        let name = name(&item, "name")?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(Some(names))
}
