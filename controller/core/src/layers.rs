//! What every request passes: a request id, one access-log line, a path without a slash at
//! its end, and an error body in the words of the service asked. Tokens are identity's matter.

use crate::error::Refusal;
use crate::{ApiError, AppState, Service};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
const COMPUTE_REQUEST_ID: HeaderName = HeaderName::from_static("x-compute-request-id");

/// A request's id, in the extensions of every request, with or without a token.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// The service that a path belongs to; `None` for what is not OpenStack's (the agents' API).
pub fn service_of(path: &str) -> Option<Service> {
    match path.trim_start_matches('/').split('/').next()? {
        "agent" => None,
        "compute" | "placement" => Some(Service::Compute),
        "image" => Some(Service::Image),
        "network" => Some(Service::Network),
        _ => Some(Service::Identity),
    }
}

/// The path that was asked for, before routers took their prefixes off.
pub fn full_path(parts: &axum::http::request::Parts) -> &str {
    match parts.extensions.get::<axum::extract::OriginalUri>() {
        Some(uri) => uri.path(),
        None => parts.uri.path(),
    }
}

/// Puts what every request passes around the services' routes.
pub fn around(app: AppState, services: Router) -> Router {
    // The outer router has no routes of its own, so that its layers run before routing.
    Router::new()
        .fallback_service(services)
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(normalise))
        .layer(middleware::from_fn_with_state(app, trace))
}

/// Gives the request its id, logs it, and answers with the id.
pub async fn trace(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = format!("req-{}", random_uuid(&app));
    request.extensions_mut().insert(RequestId(id.clone()));
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let service = service_of(&path);
    let span = tracing::info_span!("request", request_id = %id);
    let started = app.clock.monotonic();
    let response = next.run(request).instrument(span.clone()).await;
    let mut response = match service {
        Some(service) => in_the_words_of(service, &app, response),
        None => response,
    };
    let millis = u64::try_from(app.clock.monotonic().saturating_sub(started).as_millis());
    span.in_scope(|| {
        tracing::info!(
            %method,
            path,
            status = response.status().as_u16(),
            millis = millis.unwrap_or(u64::MAX),
            "answered"
        );
    });
    if let Ok(value) = HeaderValue::from_str(&id) {
        if service == Some(Service::Compute) {
            response
                .headers_mut()
                .insert(COMPUTE_REQUEST_ID, value.clone());
        }
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn random_uuid(app: &AppState) -> Uuid {
    uuid::Builder::from_random_bytes(app.rng.bits().to_be_bytes()).into_uuid()
}

/// Takes slashes off the path's end: clients differ in them, routes do not.
pub async fn normalise(mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() != path.len() && !trimmed.is_empty() {
        let with_query = match request.uri().query() {
            Some(query) => format!("{trimmed}?{query}"),
            None => trimmed.to_owned(),
        };
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = with_query.parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    next.run(request).await
}

/// Puts an error that something below the handlers made (a path or method that is not
/// there, a body that is too large, a store error) into the service's own form.
fn in_the_words_of(service: Service, app: &AppState, response: Response) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    let refusal = response.extensions().get::<Refusal>().cloned();
    let rewritten = match refusal {
        Some(refusal) if refusal.service != service => {
            ApiError::new(service, status, refusal.message).kind(refusal.kind)
        }
        Some(_) => return challenge(app, response),
        None if json => return challenge(app, response),
        None => ApiError::new(service, status, plain_words(status)),
    };
    let mut answer = rewritten.into_response();
    for (name, value) in response.headers() {
        if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    challenge(app, answer)
}

fn plain_words(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "The resource could not be found.",
        StatusCode::METHOD_NOT_ALLOWED => "The method is not allowed for this resource.",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is larger than what is taken here.",
        StatusCode::INTERNAL_SERVER_ERROR => {
            "The controller failed; its log has the cause under this request id."
        }
        other => other.canonical_reason().unwrap_or("The request failed."),
    }
}

/// A 401 says where tokens are to be had.
fn challenge(app: &AppState, mut response: Response) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        let value = format!("Keystone uri=\"{}/identity\"", app.base_url);
        if let Ok(value) = HeaderValue::from_str(&value) {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, value);
        }
    }
    response
}
