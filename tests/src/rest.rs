//! The OpenStack APIs by curl, for tests that ask often: the `openstack` command takes a second for
//! each look. The controllers of a session are asked in turn.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::check;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// `req-<uuid>`
    pub request_id: String,
    /// JSON, or null.
    pub body: Value,
}

/// A user's session.
pub struct Rest {
    bases: Vec<String>,
    turn: Cell<usize>,
    ca: PathBuf,
    token: String,
}

impl Rest {
    /// Logs in as `admin` at the first of these controllers.
    ///
    /// # Errors
    /// If that gives no token.
    pub fn log_in(bases: Vec<String>, ca: &Path, password: &str) -> Result<Self> {
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "admin", "domain": {"id": "default"}, "password": password}}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}}}});
        let mut curl = curl(ca);
        curl.args(["-o", "/dev/null", "-w", "%header{x-subject-token}"]);
        curl.args(["--json", &body.to_string()]);
        curl.arg(format!("{}/identity/v3/auth/tokens", bases[0]));
        let token = check(curl, PATIENCE)?.trim().to_owned();
        if token.is_empty() {
            bail!("logging in gave no token");
        }
        Ok(Self {
            bases,
            turn: Cell::new(0),
            ca: ca.to_owned(),
            token,
        })
    }

    /// Asks once.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let mut curl = self.call(method, path);
        if !body.is_null() {
            curl.args(["--json", &body.to_string()]);
        }
        parse(&check(curl, PATIENCE)?)
    }

    /// Asks, and takes only a success for an answer.
    ///
    /// # Errors
    /// Any other answer, and none.
    pub fn done(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let answer = self.ask(method, path, body)?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer)
    }

    /// Makes an image of a file; gives its id.
    ///
    /// # Errors
    /// As [`Rest::done`].
    pub fn image(&self, about: &Value, file: &Path) -> Result<String> {
        let made = self.done("POST", "/image/v2/images", about)?;
        let id = made.body["id"].as_str().context("an image has an id")?;
        let mut curl = self.call("PUT", &format!("/image/v2/images/{id}/file"));
        curl.args(["-H", "content-type: application/octet-stream"]);
        curl.arg("--data-binary")
            .arg(format!("@{}", file.display()));
        let answer = parse(&check(curl, PATIENCE)?)?;
        if answer.status != 204 {
            bail!("upload: {} {}", answer.status, answer.body);
        }
        Ok(id.to_owned())
    }

    fn call(&self, method: &str, path: &str) -> Command {
        let mut curl = curl(&self.ca);
        curl.args(["-X", method, "-w"]);
        curl.arg("\n%{http_code} %header{x-openstack-request-id}");
        curl.args(["-H", &format!("x-auth-token: {}", self.token)]);
        curl.args(["-H", "openstack-api-version: compute 2.60"]);
        let turn = self.turn.replace(self.turn.get() + 1);
        let base = &self.bases[turn % self.bases.len()];
        curl.arg(format!("{base}{path}"));
        curl
    }
}

fn curl(ca: &Path) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "--cacert"]).arg(ca);
    curl
}

fn parse(text: &str) -> Result<Answer> {
    let (body, last) = text.rsplit_once('\n').context("curl writes a last line")?;
    let (status, request_id) = last.split_once(' ').context("a status and an id")?;
    Ok(Answer {
        status: status.parse()?,
        request_id: request_id.to_owned(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    })
}
