//! Who asks: a request's token becomes its [`RequestContext`].

use crate::tokens::{self, Token};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use berth_controller_core::layers::{self, RequestId, service_of};
use berth_controller_core::policy::{self, Caller, Found, Role, Scope, Who};
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

/// Checks the token, asks the table of policies whether its roles reach what is asked, and gives the
/// handler its [`RequestContext`]. What the table gives to anybody needs no token.
async fn authenticate(
    State(app): State<AppState>,
    Extension(id): Extension<RequestId>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(service) = service_of(request.uri().path()) else {
        return next.run(request).await;
    };
    let matched = request.extensions().get::<MatchedPath>();
    let found = match matched {
        Some(path) => policy::find(request.method(), path.as_str()),
        None => Found::NoRoute,
    };
    if let Found::Rule(rule) = found
        && rule.who == Who::Anybody
    {
        return next.run(request).await;
    }
    let token = match token_of(request.headers(), service) {
        Ok(token) => token,
        Err(error) => return error.into_response(),
    };
    let token = match tokens::validate(&app, &token).await {
        Ok(token) => token,
        Err(mut error) => {
            error.service = service;
            return error.into_response();
        }
    };
    let caller = caller(&token);
    let reach = match (found, matched) {
        (Found::Rule(rule), _) => match rule.who.reach(&caller) {
            Some(reach) => reach,
            None => return rule.refusal().into_response(),
        },
        // No router has it, and says so.
        (Found::NoRoute, None) => return next.run(request).await,
        (Found::NoMethod | Found::NoRoute, _) => {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
    };
    let context = RequestContext {
        request_id: id.0,
        user_id: token.user_id.clone(),
        project_id: token.project_id().unwrap_or_default().to_owned(),
        caller,
        reach,
        traceparent: header_text(request.headers(), "traceparent"),
    };
    request.extensions_mut().insert(context);
    request.extensions_mut().insert(token);
    next.run(request).await
}

/// What the table is asked with.
fn caller(token: &Token) -> Caller {
    Caller {
        scope: match &token.scope {
            tokens::Scope::Unscoped => Scope::Unscoped,
            tokens::Scope::Project(project, _) => Scope::Project(project.id.clone()),
            tokens::Scope::Domain(domain) => Scope::Domain(domain.id.clone()),
            tokens::Scope::System => Scope::System,
        },
        role: Role::highest(token.roles.iter().map(|role| role.name.as_str())),
        user_id: token.user_id.clone(),
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
