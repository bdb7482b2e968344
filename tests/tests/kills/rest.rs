//! A client of the controllers, as a careful user's script is one: it asks any of them, and asks
//! another when one does not answer.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

/// A controller that dies closes its connections; one that is stuck is given up after this.
const TIMEOUT: Duration = Duration::from_secs(15);

pub struct Rest {
    pub runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    bases: Vec<String>,
    turn: Cell<usize>,
    token: String,
}

pub struct Answer {
    pub status: u16,
    /// `req-<uuid>`
    pub request_id: String,
    pub body: Value,
}

impl Rest {
    /// A client that knows these controllers and has logged in as `admin`. The runtime has no
    /// threads of its own: every socket is made in the calling thread's network namespace.
    pub fn log_in(bases: Vec<String>, ca_pem: &[u8], password: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut &*ca_pem) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            // A connection kept would be one to a process that was killed since.
            .pool_max_idle_per_host(0)
            .timeout(TIMEOUT)
            .no_proxy()
            .build()?;
        let mut rest = Self {
            runtime,
            client,
            bases,
            turn: Cell::new(0),
            token: String::new(),
        };
        let login = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "admin", "domain": {"id": "default"}, "password": password}}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}});
        let url = format!("{}/identity/v3/auth/tokens", rest.bases[0]);
        let call = rest.client.post(url).json(&login);
        let answer = rest.runtime.block_on(async { call.send().await })?;
        let token = answer.headers().get("x-subject-token");
        let token = token.context("logging in gave no token")?;
        rest.token = token.to_str()?.to_owned();
        Ok(rest)
    }

    /// Asks the next controller in turn, once.
    pub fn once(&self, method: &Method, path: &str, body: &Value) -> reqwest::Result<Answer> {
        let call = self.call(method, path);
        self.answer(if body.is_null() {
            call
        } else {
            call.json(body)
        })
    }

    /// Makes something, with nobody being killed.
    pub fn make(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.once(&Method::POST, path, body)?;
        if !(200..300).contains(&answer.status) {
            bail!("POST {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// Uploads an image's bytes.
    pub fn upload(&self, image: &str, bytes: &'static [u8]) -> Result<()> {
        let call = self.call(&Method::PUT, &format!("/image/v2/images/{image}/file"));
        let call = call.header("content-type", "application/octet-stream");
        let answer = self.answer(call.body(bytes))?;
        if answer.status != 204 {
            bail!("upload: {} {}", answer.status, answer.body);
        }
        Ok(())
    }

    fn call(&self, method: &Method, path: &str) -> reqwest::RequestBuilder {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        let url = format!("{}{path}", self.bases[turn % self.bases.len()]);
        let call = self.client.request(method.clone(), url);
        call.header("x-auth-token", &self.token)
            .header("openstack-api-version", "compute 2.60")
    }

    fn answer(&self, call: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        self.runtime.block_on(async {
            let response = call.send().await?;
            let status = response.status().as_u16();
            let request_id = response.headers().get("x-openstack-request-id");
            let request_id = request_id.and_then(|id| id.to_str().ok());
            let request_id = request_id.unwrap_or_default().to_owned();
            let bytes = response.bytes().await?;
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Ok(Answer {
                status,
                request_id,
                body,
            })
        })
    }
}
