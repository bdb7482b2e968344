//! Keystone v3.
//!
//! What is not here is not in the routes: trusts, federation and roles of domains answer 404.

mod application_credentials;
mod assignments;
mod auth;
mod discovery;
mod domains;
mod grants;
#[cfg(test)]
mod group_tests;
mod groups;
mod project_tags;
mod projects;
mod resource;
mod roles;
mod services;
#[cfg(test)]
mod tests;
mod users;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_controller_core::policy::Reach;
use berth_controller_core::{ApiError, AppState, Call, RequestContext, Service};
use serde_json::{Value, json};

/// What a handler answers.
type Reply = Result<Response, ApiError>;

/// All routes of Keystone v3, below `/identity`.
pub fn router() -> Router<AppState> {
    let v3 = Router::new()
        .route(
            "/auth/tokens",
            post(auth::create).get(auth::show).delete(auth::revoke),
        )
        .route("/auth/catalog", get(auth::catalog))
        .route("/auth/projects", get(auth::projects))
        .route("/auth/domains", get(auth::domains))
        .route("/auth/system", get(auth::system))
        .route("/domains", get(domains::list).post(domains::create))
        .route(
            "/domains/{id}",
            get(domains::show)
                .patch(domains::update)
                .delete(domains::delete),
        )
        .route("/projects", get(projects::list).post(projects::create))
        .route(
            "/projects/{id}",
            get(projects::show)
                .patch(projects::update)
                .delete(projects::delete),
        )
        .route("/users", get(users::list).post(users::create))
        .route(
            "/users/{id}",
            get(users::show).patch(users::update).delete(users::delete),
        )
        .route("/users/{id}/password", post(users::change_password))
        .route("/users/{id}/projects", get(users::projects))
        .route("/users/{id}/groups", get(groups::of_user))
        .route(
            "/users/{user}/application_credentials",
            get(application_credentials::list).post(application_credentials::create),
        )
        .route(
            "/users/{user}/application_credentials/{id}",
            get(application_credentials::show).delete(application_credentials::delete),
        )
        .route("/groups", get(groups::list).post(groups::create))
        .route(
            "/groups/{id}",
            get(groups::show)
                .patch(groups::update)
                .delete(groups::delete),
        )
        .route("/groups/{id}/users", get(groups::users))
        .route(
            "/groups/{id}/users/{user}",
            get(groups::check).put(groups::add).delete(groups::remove),
        )
        .route(
            "/projects/{id}/tags",
            get(project_tags::list)
                .put(project_tags::replace)
                .delete(project_tags::clear),
        )
        .route(
            "/projects/{id}/tags/{tag}",
            get(project_tags::has)
                .put(project_tags::add)
                .delete(project_tags::remove),
        )
        .route("/role_assignments", get(assignments::list))
        .route("/roles", get(roles::list).post(roles::create))
        .route(
            "/roles/{id}",
            get(roles::show).patch(roles::update).delete(roles::delete),
        )
        .merge(grants::router())
        .route("/services", get(services::services))
        .route("/services/{id}", get(services::service))
        .route("/endpoints", get(services::endpoints))
        .route("/endpoints/{id}", get(services::endpoint))
        .route("/regions", get(services::regions))
        .route("/regions/{id}", get(services::region));
    Router::new()
        .route("/", get(discovery::versions))
        .route("/v3", get(discovery::version))
        .nest("/v3", v3)
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Identity, StatusCode::BAD_REQUEST, message)
}

fn not_found(what: &str, id: &str) -> ApiError {
    let id = berth_controller_core::body::clip(id);
    ApiError::new(
        Service::Identity,
        StatusCode::NOT_FOUND,
        format!("Could not find {what}: {id}."),
    )
}

fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Identity, StatusCode::CONFLICT, message)
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(Service::Identity, StatusCode::FORBIDDEN, message)
}

/// Refuses what is beyond the caller's domain, or is another's.
fn beyond() -> ApiError {
    forbidden(
        "You are not authorized to perform the requested action: it is about what is beyond the \
         scope of your token.",
    )
}

/// Refuses those who may only ask of themselves, but for that.
fn oneself_or_more(context: &RequestContext, user_id: &str) -> Result<(), ApiError> {
    match &context.reach {
        Reach::Oneself(own) if own != user_id => Err(beyond()),
        _ => Ok(()),
    }
}

/// The domain that a body names, or the token's, or the default one.
fn domain_or_own(call: &Call, named: Option<String>) -> String {
    let own = || call.context.reach.domain().map(str::to_owned);
    let domain = named.or_else(own);
    domain.unwrap_or_else(|| crate::DEFAULT_DOMAIN.to_owned())
}

/// A password could not be hashed or checked: not the caller's fault.
fn hashing(error: crate::password::PasswordError) -> ApiError {
    if matches!(error, crate::password::PasswordError::Busy) {
        let (status, message) = (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        return ApiError::new(Service::Identity, status, message);
    }
    tracing::error!(%error, "password hashing failed");
    ApiError::new(
        Service::Identity,
        StatusCode::INTERNAL_SERVER_ERROR,
        "The password could not be checked; the log has the cause under this request id.",
    )
}

fn created(body: Value) -> Response {
    (StatusCode::CREATED, Json(body)).into_response()
}

fn ok(body: Value) -> Response {
    Json(body).into_response()
}

fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A collection with Keystone's links.
fn collection(app: &AppState, key: &str, path: &str, items: Vec<Value>) -> Response {
    let link = format!("{}/identity/v3/{path}", app.base_url);
    ok(json!({key: items, "links": {"self": link, "previous": null, "next": null}}))
}

fn self_link(app: &AppState, path: &str, id: &str) -> Value {
    json!({"self": format!("{}/identity/v3/{path}/{id}", app.base_url)})
}
