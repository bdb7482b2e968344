//! Query parameters: several of one name, limits, markers and sort keys, all bounded.

use crate::{ApiError, Service};
use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;

/// What stands behind the question mark, in order.
#[derive(Clone, Debug, Default)]
pub struct Params(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let service =
            crate::layers::service_of(crate::layers::full_path(parts)).unwrap_or(Service::Identity);
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|e| {
                ApiError::new(
                    service,
                    StatusCode::BAD_REQUEST,
                    format!("The query string is malformed: {e}."),
                )
            })?;
        if pairs.len() > 500 || pairs.iter().any(|(_, v)| v.contains('\0')) {
            return Err(ApiError::new(
                service,
                StatusCode::BAD_REQUEST,
                "The query string has more than 500 parameters, or a NUL character.",
            ));
        }
        Ok(Self(pairs))
    }
}

impl Params {
    /// The last value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().rev().filter(|(n, _)| n == name);
        found.next().map(|(_, v)| v.as_str())
    }

    /// Every value of a name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let found = self.0.iter().filter(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str()).collect()
    }

    /// `limit`, never above `max`; `None` if not asked for.
    ///
    /// # Errors
    /// 400 for what is no whole number, or below 0.
    pub fn limit(&self, service: Service, max: usize) -> Result<Option<usize>, ApiError> {
        match self.get("limit") {
            None => Ok(None),
            Some(text) => text
                .parse::<usize>()
                .map(|n| Some(n.min(max)))
                .map_err(|_| {
                    ApiError::new(
                        service,
                        StatusCode::BAD_REQUEST,
                        "limit is to be a whole number, 0 or more.",
                    )
                }),
        }
    }

    /// `true`, `1`, or the bare name.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)
            .map(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0" | "no"))
    }
}
