//! A cloud, as the `OS_*` variables of the environment name it: the same that the `openstack`
//! command reads. One login, then calls with its token.

use anyhow::{Context as _, bail};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Characters of a refusal that are shown.
const WORDS_LIMIT: usize = 600;

/// A logged-in user.
pub struct Cloud {
    http: reqwest::Client,
    token: String,
    catalog: Vec<Value>,
    region: Option<String>,
}

impl Cloud {
    /// Logs in with a password, to a project.
    ///
    /// # Errors
    /// Names the variable that is missing, or what the cloud said.
    pub async fn from_environment() -> anyhow::Result<Self> {
        let auth_url = variable("OS_AUTH_URL")?;
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_LIMIT);
        if let Some(ca) = optional("OS_CACERT") {
            http = http.use_preconfigured_tls(trusting(Path::new(&ca))?);
        } else {
            http = http.use_preconfigured_tls(trusting(Path::new(SYSTEM_CAS))?);
        }
        let http = http.build().context("HTTP client")?;
        let domain = |name: &str| optional(name).unwrap_or_else(|| "Default".into());
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": variable("OS_USERNAME")?,
                "password": variable("OS_PASSWORD")?,
                "domain": {"name": domain("OS_USER_DOMAIN_NAME")}}}},
            "scope": {"project": {
                "name": variable("OS_PROJECT_NAME")?,
                "domain": {"name": domain("OS_PROJECT_DOMAIN_NAME")}}}}});
        let base = auth_url.trim_end_matches('/');
        let base = base.strip_suffix("/v3").unwrap_or(base);
        let url = format!("{base}/v3/auth/tokens");
        let answer = sent(&url, http.post(&url).json(&login)).await?;
        let token = answer
            .headers()
            .get("x-subject-token")
            .and_then(|value| value.to_str().ok())
            .with_context(|| format!("{url}: the answer has no X-Subject-Token"))?
            .to_owned();
        let mut body: Value = answer
            .json()
            .await
            .with_context(|| format!("{url}: the answer"))?;
        let Value::Array(catalog) = body["token"]["catalog"].take() else {
            bail!("{url}: the token has no catalogue: is OS_PROJECT_NAME right?");
        };
        Ok(Self {
            http,
            token,
            catalog,
            region: optional("OS_REGION_NAME"),
        })
    }

    /// A service's public address, without a slash at its end.
    ///
    /// # Errors
    /// If the catalogue has none in this region.
    pub fn endpoint(&self, service: &str) -> anyhow::Result<String> {
        let here = |endpoint: &&Value| {
            endpoint["interface"] == "public"
                && self
                    .region
                    .as_ref()
                    .is_none_or(|region| endpoint["region"] == **region)
        };
        let url = self
            .catalog
            .iter()
            .filter(|entry| entry["type"] == service)
            .flat_map(|entry| entry["endpoints"].as_array().into_iter().flatten())
            .find(here)
            .and_then(|endpoint| endpoint["url"].as_str());
        let Some(url) = url else {
            let region = self.region.as_deref().unwrap_or("any");
            bail!("the catalogue has no {service} service in region {region} (OS_REGION_NAME)");
        };
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// A call with the token; give it to [`sent`].
    pub fn call(&self, method: Method, url: &str) -> RequestBuilder {
        self.http
            .request(method, url)
            .header("x-auth-token", &self.token)
    }
}

/// Sends a call, and gives the answer if it is a success.
///
/// # Errors
/// The cloud's own words, with its status; or why it cannot be reached.
pub async fn sent(url: &str, call: RequestBuilder) -> anyhow::Result<Response> {
    let answer = call
        .send()
        .await
        .with_context(|| format!("{url} cannot be reached"))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let text = answer.text().await.unwrap_or_default();
    bail!("{url}: {status}: {}", words(&text))
}

/// What a refusal says, without the wrapping that differs from service to service.
fn words(text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let inner = body.as_object().and_then(|object| {
        let nested = object.values().find_map(|value| value["message"].as_str());
        body["message"].as_str().or(nested)
    });
    inner.unwrap_or(text).chars().take(WORDS_LIMIT).collect()
}

/// Debian's bundle of the CAs that are trusted without being told.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS that trusts who a PEM file vouches for.
///
/// # Errors
/// If the file cannot be read.
pub fn trusting(path: &Path) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    match std::fs::read(path) {
        Ok(pem) => {
            for certificate in rustls_pemfile::certs(&mut &*pem) {
                let certificate = certificate.with_context(|| path.display().to_string())?;
                // A bundle may hold one that is not understood; the others count.
                let _ = roots.add(certificate);
            }
        }
        // Without CAs, plain HTTP still works, and HTTPS says what it misses.
        Err(_) if path == Path::new(SYSTEM_CAS) => {}
        Err(error) => return Err(error).with_context(|| format!("OS_CACERT {}", path.display())),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn optional(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn variable(name: &str) -> anyhow::Result<String> {
    optional(name).with_context(|| {
        format!("{name} is not set: source the openrc file of your cloud (`berth up` writes one)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_in_the_services_own_words() {
        let nova = r#"{"badRequest": {"code": 400, "message": "too small"}}"#;
        assert_eq!(words(nova), "too small");
        assert_eq!(words(r#"{"message": "no"}"#), "no");
        assert_eq!(words("<html>"), "<html>");
    }
}
