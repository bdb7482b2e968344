//! The real `openstack` command, pointed at a controller under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{binaries, process};

/// The first use installs the client from its package index.
const INSTALL_PATIENCE: Duration = Duration::from_secs(900);
/// A command takes a second, and longer where it waits for a server.
const COMMAND_PATIENCE: Duration = Duration::from_secs(600);

/// The command, with what it needs to know.
#[derive(Clone, Debug)]
pub struct OpenStack {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl OpenStack {
    /// For the user `admin` of the controller at `base_url`, whose certificate `ca` vouches for.
    ///
    /// # Errors
    /// If the client cannot be installed.
    pub fn admin(base_url: &str, ca: Option<&Path>, password: &str) -> Result<Self> {
        let mut environment = vec![
            ("OS_AUTH_URL", format!("{base_url}/identity/v3")),
            ("OS_IDENTITY_API_VERSION", "3".into()),
            ("OS_USERNAME", "admin".into()),
            ("OS_PASSWORD", password.into()),
            ("OS_PROJECT_NAME", "admin".into()),
            ("OS_USER_DOMAIN_NAME", "Default".into()),
            ("OS_PROJECT_DOMAIN_NAME", "Default".into()),
            ("OS_REGION_NAME", "RegionOne".into()),
        ];
        if let Some(ca) = ca {
            environment.push(("OS_CACERT", ca.display().to_string()));
        }
        Ok(Self {
            program: Self::program()?,
            environment,
        })
    }

    /// The command's path; installs it if it is missing.
    ///
    /// # Errors
    /// What `scripts/python-env` says.
    pub fn program() -> Result<PathBuf> {
        let mut script = Command::new(binaries::workspace().join("scripts/python-env"));
        script.arg("openstack");
        let environment = process::check_outside(script, INSTALL_PATIENCE)
            .context("the openstack command cannot be installed")?;
        Ok(Path::new(environment.trim()).join("bin/openstack"))
    }

    /// The environment, for people who want to type commands themselves.
    #[must_use]
    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// Runs `openstack ARGUMENTS`, whatever its exit code.
    ///
    /// # Errors
    /// If it cannot be started or does not end.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        // The machine's own clouds.yaml and proxies are none of ours.
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", "/nonexistent").env("LANG", "C.UTF-8");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(arguments);
        process::run(command, COMMAND_PATIENCE)
    }

    /// Runs `openstack ARGUMENTS` and gives its standard output.
    ///
    /// # Errors
    /// Also if it exits with another code than 0; the message has what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_run(arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("openstack {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `openstack ARGUMENTS -f json` and gives what it printed.
    ///
    /// # Errors
    /// As [`OpenStack::run`], and if it printed no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["-f", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("openstack {} printed {text}", arguments.join(" ")))
    }
}
