//! Who asks: a request's token becomes its [`RequestContext`].

use crate::tokens;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use berth_controller_core::layers::{self, RequestId, service_of};
use berth_controller_core::{ApiError, AppState, RequestContext, Service, body};

/// Identity's routes and the other services', as users see them: each behind a token.
pub fn guard(app: AppState, services: Router<AppState>) -> Router {
    let all = Router::new()
        .nest("/identity", crate::api::router())
        .merge(services)
        .layer(middleware::from_fn_with_state(app.clone(), authenticate))
        .layer(DefaultBodyLimit::max(body::MAX_JSON_BYTES))
        .with_state(app.clone());
    layers::around(app, all)
}

/// Checks the token, unless the path is one that anybody may ask, and gives the handler its
/// [`RequestContext`].
async fn authenticate(
    State(app): State<AppState>,
    Extension(id): Extension<RequestId>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let Some(service) = service_of(path) else {
        return next.run(request).await;
    };
    if is_public(request.method(), path) {
        return next.run(request).await;
    }
    let token = match token_of(request.headers(), service) {
        Ok(token) => token,
        Err(error) => return error.into_response(),
    };
    match tokens::validate(&app, &token).await {
        Ok(token) => {
            let context = RequestContext {
                request_id: id.0,
                user_id: token.user_id.clone(),
                project_id: token.project_id().unwrap_or_default().to_owned(),
                is_admin: token.has_role("admin"),
                roles: token.roles.iter().map(|r| r.name.clone()).collect(),
                system_scope: token.is_system(),
                traceparent: header_text(request.headers(), "traceparent"),
            };
            request.extensions_mut().insert(context);
            request.extensions_mut().insert(token);
            next.run(request).await
        }
        Err(mut error) => {
            error.service = service;
            error.into_response()
        }
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn token_of(headers: &HeaderMap, service: Service) -> Result<String, ApiError> {
    header_text(headers, "x-auth-token").ok_or_else(|| {
        ApiError::new(
            service,
            StatusCode::UNAUTHORIZED,
            "The request you have made requires authentication: it has no X-Auth-Token.",
        )
    })
}

/// Discovery, and asking for a token.
fn is_public(method: &Method, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match parts.as_slice() {
        ["identity", "v3", "auth", "tokens"] => method == Method::POST,
        [] | ["identity" | "compute" | "image" | "network" | "placement"] => true,
        ["identity", "v3"] | ["compute", "v2" | "v2.1"] | ["network", "v2.0"] => {
            matches!(*method, Method::GET | Method::HEAD)
        }
        ["image", "versions"] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_discovery_and_the_token_request_are_public() {
        for (method, path, public) in [
            (Method::POST, "/identity/v3/auth/tokens", true),
            (Method::GET, "/identity/v3/auth/tokens", false),
            (Method::GET, "/identity/v3", true),
            (Method::GET, "/identity", true),
            (Method::GET, "/identity/v3/users", false),
            (Method::GET, "/compute", true),
            (Method::GET, "/compute/v2.1", true),
            (Method::GET, "/compute/v2.1/servers", false),
            (Method::GET, "/image", true),
            (Method::GET, "/image/v2/images", false),
            (Method::GET, "/network/v2.0", true),
            (Method::POST, "/network/v2.0", false),
            (Method::GET, "/network/v2.0/networks", false),
        ] {
            assert_eq!(is_public(&method, path), public, "{method} {path}");
        }
    }
}
