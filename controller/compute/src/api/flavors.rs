//! `/flavors`: list, show, create and delete, extra specs, access.

use super::common::{
    Call, Reply, answer, bad, boolean, conflict, description, name, not_found, object, ok,
    opt_name, read, status, tx, within,
};
use super::render::{Field, render};
use super::servers::next_link;
use crate::flavors::{self, Flavor, TABLE};
use crate::listing;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::StatusCode;
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::listing::{Asked, Condition, Direction, Field as Column};
use berth_controller_core::query::Params;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{ApiError, Service};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

struct View {
    flavor: Flavor,
    base_url: Arc<str>,
}

type F = Field<View>;

const FIELDS: &[F] = &[
    F::always("id", |v, _| Some(json!(v.flavor.id))),
    F::always("name", |v, _| Some(json!(v.flavor.name))),
    F::always("ram", |v, _| Some(json!(v.flavor.ram))),
    F::always("vcpus", |v, _| Some(json!(v.flavor.vcpus))),
    F::always("disk", |v, _| Some(json!(v.flavor.disk))),
    // Nova's way to say none.
    F::always("swap", |_, _| Some(json!(""))).until(74),
    F::always("swap", |_, _| Some(json!(0))).since(75),
    F::always("OS-FLV-EXT-DATA:ephemeral", |_, _| Some(json!(0))),
    F::always("OS-FLV-DISABLED:disabled", |_, _| Some(json!(false))),
    F::always("os-flavor-access:is_public", |v, _| {
        Some(json!(v.flavor.is_public))
    }),
    F::always("rxtx_factor", |_, _| Some(json!(1.0))),
    F::always("links", |v, _| Some(links(v))),
    F::always("description", |v, _| Some(json!(v.flavor.description))).since(55),
    F::always("extra_specs", |v, _| Some(json!(v.flavor.extra_specs))).since(61),
];

const BASIC: &[&str] = &["id", "name", "links", "description"];

fn links(view: &View) -> Value {
    super::common::links(&view.base_url, &format!("flavors/{}", view.flavor.id))
}

fn show_one(call: &Call, flavor: Flavor) -> Value {
    let view = View {
        flavor,
        base_url: call.app.base_url.clone(),
    };
    render(FIELDS, &view, call.version, sees_all(call))
}

/// Whether private flavors of all projects are the caller's to see.
fn sees_all(call: &Call) -> bool {
    call.context.may("os_compute_api:os-flavor-access:list_all")
}

/// A flavor that the caller may use.
async fn find(tx: &mut Tx, call: &Call, id: &str) -> Result<Flavor, ApiError> {
    let found = flavors::get(tx, id, call.context.reach.project()).await?;
    found.ok_or_else(|| not_found(format!("Flavor {} could not be found.", clip(id))))
}

/// `GET /flavors`
pub async fn index(call: Call, params: Params) -> Reply {
    list(call, params, false).await
}

/// `GET /flavors/detail`
pub async fn detail(call: Call, params: Params) -> Reply {
    list(call, params, true).await
}

async fn list(call: Call, params: Params, detail: bool) -> Reply {
    let at_least = |name: &str| {
        let text = params.get(name);
        text.map(|t| {
            t.parse::<i64>()
                .map_err(|_| bad(format!("Invalid {name} filter [{}]", clip(t))))
        })
        .transpose()
    };
    let min_ram = at_least("minRam")?.unwrap_or(0);
    let min_disk = at_least("minDisk")?.unwrap_or(0);
    // Administrators choose; everybody else sees what they may use.
    let public = match params.get("is_public") {
        Some("None" | "none") => None,
        Some("0" | "false" | "False" | "f" | "no" | "off") => Some(false),
        Some("1" | "true" | "True" | "t" | "yes" | "on") | None => Some(true),
        Some(other) => {
            return Err(bad(format!("Invalid is_public filter [{}]", clip(other))));
        }
    };
    let mut filter = Condition::new(
        "f.memory_mib >= ? AND f.disk_gib >= ?",
        [min_ram.into(), min_disk.into()],
    );
    if let (true, Some(public)) = (sees_all(&call), public) {
        filter.and(Condition::new("f.is_public = ?", [public.into()]));
    }
    let limit = params.limit(Service::Compute, listing::MAX_LIMIT)?;
    let asked = Asked {
        filter,
        order: order(&params)?,
        marker: params.get("marker").map(str::to_owned),
        limit: limit.unwrap_or(listing::MAX_LIMIT),
        reverse: false,
    };
    let (page, next) = read!(call, |tx| [call, asked] {
        let project = call.context.reach.project();
        let page = TABLE.page(tx, &flavors::visible(project), project, &asked).await;
        let page = page.map_err(|why| listing::refused(why, &asked))?;
        let next = page.ids.last().filter(|_| page.ids.len() == asked.limit).cloned();
        Ok::<_, ApiError>((flavors::of_page(tx, &page).await?, next))
    })?;
    let shown: Vec<Value> = page
        .into_iter()
        .map(|flavor| {
            let mut value = show_one(&call, flavor);
            if !detail && let Value::Object(map) = &mut value {
                map.retain(|name, _| BASIC.contains(&name.as_str()));
            }
            value
        })
        .collect();
    let mut body = json!({ "flavors": shown });
    if let Some(next) = next {
        let path = if detail { "flavors/detail" } else { "flavors" };
        body["flavors_links"] = next_link(&call, path, &params, &next);
    }
    ok(body)
}

fn order(params: &Params) -> Result<Vec<(Column, Direction)>, ApiError> {
    let direction = match params.get("sort_dir") {
        None | Some("asc") => Direction::Ascending,
        Some("desc") => Direction::Descending,
        Some(_) => return Err(bad("Unknown sort direction, must be 'desc' or 'asc'")),
    };
    let key = params.get("sort_key").unwrap_or("flavorid");
    let field = TABLE.field(key).ok_or_else(|| {
        bad(format!(
            "Invalid input for query parameters sort_key. Value: {}.",
            clip(key)
        ))
    })?;
    Ok(TABLE.whole(vec![(field, direction)]))
}

/// `GET /flavors/{id}`
pub async fn show(call: Call, Path(id): Path<String>) -> Reply {
    let flavor = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    ok(json!({"flavor": show_one(&call, flavor)}))
}

/// `POST /flavors`
pub async fn create(call: Call, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["flavor"])?;
    let fields = within(&body, "flavor")?;
    let mut known = vec![
        "name",
        "id",
        "ram",
        "vcpus",
        "disk",
        "OS-FLV-EXT-DATA:ephemeral",
        "swap",
        "rxtx_factor",
        "os-flavor-access:is_public",
    ];
    if call.since(55) {
        known.push("description");
    }
    fields.only(&known)?;
    const MAX: i64 = i32::MAX as i64;
    // Neither is done by the agents yet: none is the only amount that is true.
    for name in ["OS-FLV-EXT-DATA:ephemeral", "swap"] {
        if fields.int(name, 0, MAX)?.is_some_and(|n| n > 0) {
            return Err(fields.wrong(name, "is to be 0: this release makes root disks only"));
        }
    }
    rxtx_factor(&fields)?;
    let number = |name: &str, min: i64| {
        fields
            .int(name, min, MAX)?
            .ok_or_else(|| fields.wrong(name, "is missing"))
    };
    let flavor = Flavor {
        id: flavor_id(&fields)?.unwrap_or_else(|| call.app.env().uuid().to_string()),
        name: name(&fields, "name")?,
        ram: number("ram", 1)?,
        vcpus: number("vcpus", 1)?,
        disk: number("disk", 0)?,
        is_public: boolean(&fields, "os-flavor-access:is_public")?.unwrap_or(true),
        description: if call.since(55) {
            description(&fields, 65_535)?.flatten()
        } else {
            None
        },
        extra_specs: BTreeMap::new(),
    };
    let now = call.now();
    let made = tx!(call, |tx| [flavor] { flavors::insert(tx, now, &flavor).await });
    match made {
        Ok(()) => ok(json!({"flavor": show_one(&call, flavor)})),
        Err(StoreError::Conflict(_)) => Err(conflict(format!(
            "Flavor with ID {} or name {} already exists.",
            flavor.id, flavor.name
        ))),
        Err(error) => Err(error.into()),
    }
}

/// A positive number, or one in a string. It does nothing here, as in Nova since Neutron.
fn rxtx_factor(fields: &Fields<'_>) -> Result<(), ApiError> {
    let value = match fields.get("rxtx_factor") {
        None => return Ok(()),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    match value {
        Some(number) if number > 0.0 && number <= 3.402_82e38 => Ok(()),
        _ => Err(fields.wrong("rxtx_factor", "is to be a positive number")),
    }
}

fn flavor_id(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let id = match fields.get("id") {
        Some(Value::Number(number)) => number.to_string(),
        _ => match opt_id(fields)? {
            None => return Ok(None),
            Some(id) => id,
        },
    };
    // What the clients write for "choose one".
    if id == "auto" {
        return Ok(None);
    }
    let known = |c: char| c.is_ascii_alphanumeric() || ". _-".contains(c);
    if id.chars().all(known) {
        Ok(Some(id))
    } else {
        Err(fields.wrong("id", "is to have letters, digits and '. _-' only"))
    }
}

fn opt_id(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    if fields.get("id").is_none() {
        return Ok(None);
    }
    opt_name(fields, "id")
}

/// `PUT /flavors/{id}`, since 2.55: the description.
pub async fn update(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    call.only_in(55, u16::MAX)?;
    let body = object(&bytes, &["flavor"])?;
    let fields = within(&body, "flavor")?;
    fields.only(&["description"])?;
    let words =
        description(&fields, 65_535)?.ok_or_else(|| fields.wrong("description", "is missing"))?;
    let flavor = tx!(call, |tx| [call, id, words] {
        let mut flavor = find(tx, &call, &id).await?;
        flavor.description = words;
        flavors::save(tx, &flavor).await?;
        Ok::<_, ApiError>(flavor)
    })?;
    ok(json!({"flavor": show_one(&call, flavor)}))
}

/// `DELETE /flavors/{id}`
pub async fn delete(call: Call, Path(id): Path<String>) -> Reply {
    let gone = tx!(call, |tx| [id] { flavors::delete(tx, &id).await })?;
    if gone {
        return status(StatusCode::ACCEPTED);
    }
    Err(not_found(format!(
        "Flavor {} could not be found.",
        clip(&id)
    )))
}

/// `GET /flavors/{id}/os-extra_specs`
pub async fn specs(call: Call, Path(id): Path<String>) -> Reply {
    let flavor = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    ok(json!({"extra_specs": flavor.extra_specs}))
}

/// Keys of `[a-zA-Z0-9-_:. ]`, string or number values.
fn parse_specs(fields: &Fields<'_>) -> Result<BTreeMap<String, String>, ApiError> {
    let mut specs = BTreeMap::new();
    for (key, value) in fields.iter() {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
        if key.is_empty() || key.len() > 255 || !key.chars().all(known) {
            return Err(fields.wrong(
                &clip(key),
                "is no key: 1 to 255 of letters, digits, '-_:. '",
            ));
        }
        let text = match value {
            Value::String(text) if text.chars().count() <= 255 && !text.contains('\0') => {
                text.clone()
            }
            Value::Number(number) => number.to_string(),
            _ => return Err(fields.wrong(key, "is to be a string of at most 255 characters")),
        };
        specs.insert(key.clone(), text);
    }
    Ok(specs)
}

/// `POST /flavors/{id}/os-extra_specs`
pub async fn specs_merge(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["extra_specs"])?;
    let specs = parse_specs(&within(&body, "extra_specs")?)?;
    let shown = specs.clone();
    tx!(call, |tx| [call, id, specs] {
        let mut flavor = find(tx, &call, &id).await?;
        flavor.extra_specs.extend(specs);
        flavors::save(tx, &flavor).await?;
        Ok::<_, ApiError>(())
    })?;
    ok(json!({ "extra_specs": shown }))
}

/// `GET /flavors/{id}/os-extra_specs/{key}`
pub async fn spec(call: Call, Path((id, key)): Path<(String, String)>) -> Reply {
    let flavor = read!(call, |tx| [call, id] { find(tx, &call, &id).await })?;
    match flavor.extra_specs.get(&key) {
        Some(value) => ok(json!({ key: value })),
        None => Err(no_spec(&id, &key)),
    }
}

fn no_spec(id: &str, key: &str) -> ApiError {
    not_found(format!(
        "Flavor {id} has no extra specs with key {}.",
        clip(key)
    ))
}

/// `PUT /flavors/{id}/os-extra_specs/{key}`
pub async fn spec_set(call: Call, Path((id, key)): Path<(String, String)>, bytes: Bytes) -> Reply {
    let body = berth_controller_core::body::parse(Service::Compute, &bytes)?;
    let specs = parse_specs(&Fields::of(Service::Compute, &body, "body")?)?;
    if specs.len() != 1 || !specs.contains_key(&key) {
        return Err(bad("Request body and URI mismatch"));
    }
    let shown = json!(specs);
    tx!(call, |tx| [call, id, specs] {
        let mut flavor = find(tx, &call, &id).await?;
        flavor.extra_specs.extend(specs);
        flavors::save(tx, &flavor).await?;
        Ok::<_, ApiError>(())
    })?;
    ok(shown)
}

/// `DELETE /flavors/{id}/os-extra_specs/{key}`
pub async fn spec_delete(call: Call, Path((id, key)): Path<(String, String)>) -> Reply {
    tx!(call, |tx| [call, id, key] {
        let mut flavor = find(tx, &call, &id).await?;
        if flavor.extra_specs.remove(&key).is_none() {
            return Err(no_spec(&id, &key));
        }
        flavors::save(tx, &flavor).await?;
        Ok::<_, ApiError>(())
    })?;
    status(StatusCode::OK)
}

fn access_list(id: &str, projects: &[String]) -> Value {
    let entry = |p: &String| json!({"flavor_id": id, "tenant_id": p});
    json!({"flavor_access": projects.iter().map(entry).collect::<Vec<_>>()})
}

/// `GET /flavors/{id}/os-flavor-access`
pub async fn access(call: Call, Path(id): Path<String>) -> Reply {
    let projects = read!(call, |tx| [call, id] {
        let flavor = find(tx, &call, &id).await?;
        if flavor.is_public {
            return Err(not_found("Access list not available for public flavors."));
        }
        Ok::<_, ApiError>(flavors::access(tx, &id).await?)
    })?;
    ok(access_list(&id, &projects))
}

/// `POST /flavors/{id}/action`: who may use it.
pub async fn action(call: Call, Path(id): Path<String>, bytes: Bytes) -> Reply {
    let body = object(&bytes, &["addTenantAccess", "removeTenantAccess"])?;
    let add = body.get("addTenantAccess").is_some();
    let key = if add {
        "addTenantAccess"
    } else {
        "removeTenantAccess"
    };
    let fields = within(&body, key)?;
    fields.only(&["tenant"])?;
    let tenant = name(&fields, "tenant")?;
    let projects = tx!(call, |tx| [call, id, tenant] {
        let flavor = find(tx, &call, &id).await?;
        if flavor.is_public {
            return Err(conflict("Can not add or remove access of a public flavor."));
        }
        if add {
            if !flavors::grant(tx, &id, &tenant).await? {
                return Err(conflict(format!(
                    "Flavor access already exists for flavor {id} and project {tenant} combination."
                )));
            }
        } else if !flavors::revoke(tx, &id, &tenant).await? {
            return Err(not_found(format!(
                "Flavor access not found for {id} / {tenant} combination."
            )));
        }
        Ok::<_, ApiError>(flavors::access(tx, &id).await?)
    })?;
    Ok(answer(StatusCode::OK, access_list(&id, &projects)))
}
