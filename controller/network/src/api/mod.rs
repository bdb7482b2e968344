//! Neutron v2.0: networks, subnets, ports, security groups.
//!
//! What is not enforced is not listed among the extensions and has no route: routers and
//! floating IPs answer 404. See [`crate`] for what ports say of security groups.

mod about;
mod networks;
mod ports;
mod quotas;
mod security_groups;
mod subnets;
mod tags;
#[cfg(test)]
mod tests;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use berth_controller_core::body::{Fields, clip};
use berth_controller_core::listing::{self, Direction, Ids, Style};
use berth_controller_core::query::Params;
use berth_controller_core::{ApiError, AppState, RequestContext, Service};
use serde_json::{Value, json};

/// What a handler answers.
type Reply = Result<Response, ApiError>;

/// All routes of Neutron, below `/network`.
pub fn router() -> Router<AppState> {
    let v2 = Router::new()
        .route("/networks", get(networks::list).post(networks::create))
        .route(
            "/networks/{id}",
            get(networks::show)
                .put(networks::update)
                .delete(networks::delete),
        )
        .route("/subnets", get(subnets::list).post(subnets::create))
        .route(
            "/subnets/{id}",
            get(subnets::show)
                .put(subnets::update)
                .delete(subnets::delete),
        )
        .route("/ports", get(ports::list).post(ports::create))
        .route(
            "/ports/{id}",
            get(ports::show).put(ports::update).delete(ports::delete),
        )
        .route(
            "/security-groups",
            get(security_groups::list).post(security_groups::create),
        )
        .route(
            "/security-groups/{id}",
            get(security_groups::show)
                .put(security_groups::update)
                .delete(security_groups::delete),
        )
        .route(
            "/security-group-rules",
            get(security_groups::list_rules).post(security_groups::create_rule),
        )
        .route(
            "/security-group-rules/{id}",
            get(security_groups::show_rule).delete(security_groups::delete_rule),
        )
        .merge(tags::router())
        .route("/quotas", get(quotas::list))
        .route(
            "/quotas/{project}",
            get(quotas::show).put(quotas::update).delete(quotas::reset),
        )
        .route("/quotas/{project}/default", get(quotas::defaults))
        .route("/quotas/{project}/details.json", get(quotas::details))
        .route("/quotas/{project}/details", get(quotas::details))
        .route("/extensions", get(about::extensions))
        .route("/extensions/{alias}", get(about::extension))
        .route("/agents", get(about::agents))
        .route("/availability_zones", get(about::zones));
    Router::new()
        .route("/", get(about::versions))
        .route("/v2.0", get(about::version))
        .nest("/v2.0", v2)
}

/// Parses a POST body with one resource or several, and tells which it was.
fn one_or_many<'a>(
    body: &'a Value,
    single: &str,
    plural: &str,
) -> Result<(Vec<Fields<'a>>, bool), ApiError> {
    match body.get(plural) {
        Some(Value::Array(list)) if list.is_empty() || list.len() > 200 => {
            Err(bad(format!("{plural} is to have 1 to 200 entries.")))
        }
        Some(Value::Array(list)) => {
            let each = list
                .iter()
                .enumerate()
                .map(|(n, value)| Fields::of(Service::Network, value, &format!("{plural}[{n}]")));
            Ok((each.collect::<Result<_, _>>()?, true))
        }
        Some(_) => Err(bad(format!("{plural} is to be a list."))),
        None => Ok((vec![Fields::within(Service::Network, body, single)?], false)),
    }
}

/// What a POST answers: 201 with one resource or several.
fn created(single: &str, plural: &str, bulk: bool, mut views: Vec<Value>) -> Response {
    let body = if bulk {
        json!({plural: views})
    } else {
        json!({single: views.pop()})
    };
    (StatusCode::CREATED, Json(body)).into_response()
}

fn ok(body: Value) -> Response {
    Json(body).into_response()
}

fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Network, StatusCode::BAD_REQUEST, message).kind("InvalidInput")
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Network, StatusCode::FORBIDDEN, message).kind("PolicyNotAuthorized")
}

/// What is offered elsewhere but not here, and is therefore refused, not stored (rule 12).
fn not_offered(field: &str, value: &str) -> ApiError {
    bad(format!(
        "Invalid input for operation: {field} = {} is not offered here, and would not be enforced.",
        clip(value)
    ))
}

/// The project that a new resource is for: the caller's, or (administrators) a given one.
fn project_of(context: &RequestContext, fields: &Fields<'_>) -> Result<String, ApiError> {
    let project = fields.text("project_id", 255)?;
    let given = match (project, fields.text("tenant_id", 255)?) {
        (Some(a), Some(b)) if a != b => {
            return Err(fields.wrong("tenant_id", "differs from project_id"));
        }
        (a, b) => a.or(b),
    };
    match given {
        Some(project) if context.may_see(&project) => Ok(project),
        Some(_) => Err(forbidden(
            "Only an administrator may make things for another project.",
        )),
        None if context.project_id.is_empty() => Err(bad(
            "The token has no project: use one scoped to a project, or give project_id.",
        )),
        None => Ok(context.project_id.clone()),
    }
}

/// How Neutron speaks of lists.
const STYLE: Style = Style {
    service: Service::Network,
    direction: Direction::Ascending,
    default_limit: None,
    max_limit: 10_000,
};

/// Answers a page of a list, with only the `fields` asked for, and links to those around it: the same
/// query with another marker.
fn answer_list(
    app: &AppState,
    key: &str,
    path: &str,
    page: &Ids,
    views: Vec<Value>,
    query: &Params,
) -> Reply {
    let items: Vec<Value> = views.into_iter().map(|i| only(i, query)).collect();
    let mut body = json!({key: items});
    let reverse = query.flag("page_reverse").unwrap_or(false);
    let link = |rel: &str, marker: Option<&String>, reverse: Option<&str>| {
        let changes = [
            ("marker", marker.map(String::as_str)),
            ("page_reverse", reverse),
        ];
        let again = listing::again(query, &changes);
        json!({"rel": rel, "href": format!("{}/network/v2.0/{path}?{again}", app.base_url)})
    };
    let mut links = Vec::new();
    if (page.more || reverse) && !page.ids.is_empty() {
        links.push(link("next", page.ids.last(), None));
    }
    let is_behind = query.get("marker").is_some() && !reverse;
    if ((page.more && reverse) || is_behind) && !page.ids.is_empty() {
        links.push(link("previous", page.ids.first(), Some("True")));
    }
    if !links.is_empty() {
        body[format!("{key}_links")] = Value::Array(links);
    }
    Ok(ok(body))
}

/// Keeps the `fields` that were asked for, or all.
fn only(mut item: Value, query: &Params) -> Value {
    let wanted = query.all("fields");
    if let (false, Value::Object(map)) = (wanted.is_empty(), &mut item) {
        map.retain(|key, _| wanted.contains(&key.as_str()));
    }
    item
}
