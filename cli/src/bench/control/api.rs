//! The cloud's administrator, asking its controllers in turn.

use super::cloud::{ADMIN_PASSWORD, Cloud};
use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A logged-in administrator. Clones share connections.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    bases: Vec<String>,
    turn: AtomicUsize,
    token: String,
}

impl Api {
    /// Logs in, to the project `admin`.
    ///
    /// # Errors
    /// What the cloud said.
    pub async fn log_in(cloud: &Cloud) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(crate::cloud::trusting(&cloud.ca())?)
            .build()?;
        Self::to_project(http, cloud.bases().to_vec(), "admin").await
    }

    /// The same, to another project.
    ///
    /// # Errors
    /// What the cloud said.
    pub async fn of_project(&self, name: &str) -> anyhow::Result<Self> {
        Self::to_project(self.0.http.clone(), self.0.bases.clone(), name).await
    }

    async fn to_project(
        http: reqwest::Client,
        bases: Vec<String>,
        project: &str,
    ) -> anyhow::Result<Self> {
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "admin", "password": ADMIN_PASSWORD, "domain": {"name": "Default"}}}},
            "scope": {"project": {"name": project, "domain": {"name": "Default"}}}}});
        let base = bases.first().context("a cloud has a controller")?;
        let url = format!("{base}/identity/v3/auth/tokens");
        let answer = crate::cloud::sent(&url, http.post(&url).json(&login)).await?;
        let token = answer
            .headers()
            .get("x-subject-token")
            .and_then(|value| value.to_str().ok())
            .context("a login gives a token")?
            .to_owned();
        Ok(Self(Arc::new(Inner {
            http,
            bases,
            turn: AtomicUsize::new(0),
            token,
        })))
    }

    /// Asks the next controller, and gives its answer as JSON; null if it is none.
    ///
    /// # Errors
    /// Any answer that is no success.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let call = self.call(method, path);
        let call = match body {
            Value::Null => call,
            body => call.json(body),
        };
        let answer = crate::cloud::sent(path, call).await?;
        let bytes = answer.bytes().await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Makes a thing, and gives its id.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub async fn make(&self, path: &str, kind: &str, about: Value) -> anyhow::Result<String> {
        let made = self.ask(Method::POST, path, &json!({kind: about})).await?;
        let Some(id) = made[kind]["id"].as_str() else {
            bail!("POST {path}: no id in {made}");
        };
        Ok(id.to_owned())
    }

    /// Makes an image of a few bytes.
    ///
    /// # Errors
    /// As [`Api::ask`].
    pub async fn image(&self, about: &Value) -> anyhow::Result<String> {
        let made = self.ask(Method::POST, "/image/v2/images", about).await?;
        let id = made["id"].as_str().context("an image has an id")?;
        let path = format!("/image/v2/images/{id}/file");
        let call = self
            .call(Method::PUT, &path)
            .header("content-type", "application/octet-stream")
            .body("bytes");
        crate::cloud::sent(&path, call).await?;
        Ok(id.to_owned())
    }

    fn call(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let inner = &self.0;
        let turn = inner.turn.fetch_add(1, Ordering::Relaxed) % inner.bases.len().max(1);
        let base = inner.bases.get(turn).map_or("", String::as_str);
        inner
            .http
            .request(method, format!("{base}{path}"))
            .header("x-auth-token", &inner.token)
            .header("openstack-api-version", "compute 2.96")
    }
}
