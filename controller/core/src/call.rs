//! One call of an API, and its transaction: what handlers begin with.

use crate::{ApiError, AppState, RequestContext, Service, layers};
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;

/// Runs a closure of owned clones in a transaction: `tx!(call, |tx| [a, b] { ... })`.
#[macro_export]
macro_rules! tx {
    ($call:expr, |$tx:ident| [$($name:ident),*] $body:block) => {
        $call.app.store.tx(|$tx| {
            $(let $name = $name.clone();)*
            Box::pin(async move $body)
        }).await
    };
}

/// As [`tx!`], for what only reads ([`Store::read`](crate::store::Store::read)).
#[macro_export]
macro_rules! read {
    ($call:expr, |$tx:ident| [$($name:ident),*] $body:block) => {
        $call.app.store.read(|$tx| {
            $(let $name = $name.clone();)*
            Box::pin(async move $body)
        }).await
    };
}

/// The application, and who asks.
#[derive(Clone)]
pub struct Call {
    /// The application.
    pub app: AppState,
    /// Who asks.
    pub context: RequestContext,
}

impl FromRequestParts<AppState> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let context = parts.extensions.get::<RequestContext>().cloned();
        let service = layers::service_of(layers::full_path(parts));
        Ok(Self {
            app: app.clone(),
            context: context.ok_or_else(|| {
                ApiError::new(
                    service.unwrap_or(Service::Identity),
                    StatusCode::UNAUTHORIZED,
                    "The request you have made requires authentication.",
                )
            })?,
        })
    }
}

impl Call {
    /// Unix milliseconds.
    pub fn now(&self) -> i64 {
        self.app.clock.now_millis()
    }
}
