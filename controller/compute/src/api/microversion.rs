//! Microversions: which one a request asks for, and saying so in the answer.
//!
//! None asked for is 2.1. The newer header wins over the older, as in Nova. Both are echoed in
//! every answer, errors too, with `Vary`.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use berth_controller_core::{ApiError, Service};

/// The oldest microversion, 2.1.
pub const MIN: u16 = 1;
/// The newest microversion, 2.96.
pub const MAX: u16 = 96;

const NEW: HeaderName = HeaderName::from_static("openstack-api-version");
const OLD: HeaderName = HeaderName::from_static("x-openstack-nova-api-version");

/// A microversion 2.n, by its n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion(pub u16);

impl std::fmt::Display for Microversion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "2.{}", self.0)
    }
}

/// What the headers ask for.
///
/// # Errors
/// 400 for what is no version, 406 for one that is not understood; both name the header's value.
pub fn asked(headers: &HeaderMap) -> Result<Microversion, ApiError> {
    let text = headers
        .get_all(NEW)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|part| part.trim().strip_prefix("compute "))
        .or_else(|| headers.get(OLD).and_then(|v| v.to_str().ok()))
        .map_or("2.1", str::trim);
    if text.eq_ignore_ascii_case("latest") {
        return Ok(Microversion(MAX));
    }
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let plain = part == "0" || !part.starts_with('0');
        (digits && plain && part.len() < 6).then(|| part.parse::<u32>().ok())?
    };
    let parsed = text
        .split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    let Some((major, minor)) = parsed else {
        return Err(ApiError::new(
            Service::Compute,
            StatusCode::BAD_REQUEST,
            format!(
                "API Version String {} is of invalid format. Must be of format MajorNum.MinorNum.",
                berth_controller_core::body::clip(text)
            ),
        ));
    };
    match u16::try_from(minor) {
        Ok(minor) if major == 2 && (MIN..=MAX).contains(&minor) => Ok(Microversion(minor)),
        _ => Err(ApiError::new(
            Service::Compute,
            StatusCode::NOT_ACCEPTABLE,
            format!(
                "Version {major}.{minor} is not supported by the API. Minimum is 2.{MIN} and maximum is 2.{MAX}."
            ),
        )),
    }
}

/// Gives the handler its [`Microversion`] and the answer its headers.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let (version, mut response) = match asked(request.headers()) {
        Ok(version) => {
            request.extensions_mut().insert(version);
            (version.to_string(), next.run(request).await)
        }
        Err(error) => (Microversion(MIN).to_string(), error.into_response()),
    };
    let headers = response.headers_mut();
    if let (Ok(new), Ok(old)) = (
        HeaderValue::from_str(&format!("compute {version}")),
        HeaderValue::from_str(&version),
    ) {
        headers.insert(NEW, new);
        headers.insert(OLD, old);
    }
    headers.append(
        header::VARY,
        HeaderValue::from_static("OpenStack-API-Version, X-OpenStack-Nova-API-Version"),
    );
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_newer_header_wins_and_none_is_2_1() {
        let new = "openstack-api-version";
        let old = "x-openstack-nova-api-version";
        for (pairs, expected) in [
            (vec![], 1),
            (vec![(old, "2.26")], 26),
            (vec![(new, "compute 2.10")], 10),
            (vec![(new, "compute 2.10"), (old, "2.26")], 10),
            (vec![(new, "volume 3.70"), (old, "2.26")], 26),
            (vec![(new, "volume 3.70, compute 2.60")], 60),
            (vec![(old, "latest")], MAX),
            (vec![(new, "compute latest")], MAX),
        ] {
            assert_eq!(asked(&headers(&pairs)).unwrap().0, expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_no_version_is_400_and_one_too_new_is_406() {
        for (text, status) in [
            ("2.97", 406),
            ("2.0", 406),
            ("3.1", 406),
            ("2.99999", 406),
            ("2", 400),
            ("2.", 400),
            ("2.01", 400),
            ("two.one", 400),
            ("2.1.1", 400),
            ("2.999999999", 400),
        ] {
            let error = asked(&headers(&[("x-openstack-nova-api-version", text)])).unwrap_err();
            assert_eq!(error.status.as_u16(), status, "{text}: {}", error.message);
        }
    }
}
