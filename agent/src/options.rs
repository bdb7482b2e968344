//! How an agent is configured: a TOML file, then `BERTH_AGENT_…` variables, then flags.

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that can be set. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Identity, journal, guests and image cache live here.
    pub state_dir: PathBuf,
    /// `https://host:port` of the controller.
    pub controller_url: String,
    /// PEM file of the CA that vouches for the controller.
    pub controller_ca: PathBuf,
    /// One-time token; needed only until the host has joined.
    pub join_token: Option<String>,
    /// Brokers, `amqp://` or `amqps://`; what joining gave is used if empty.
    pub broker_urls: Vec<String>,
    /// What runs the guests.
    pub driver: DriverKind,
    /// A label; the machine's hostname if unset.
    pub hostname: Option<String>,
    /// The address by which other hosts reach this one.
    pub address: String,
    /// Flat physical networks, and the interface that each is wired to. An empty interface
    /// makes a bridge that nothing but guests are on.
    pub physical_networks: BTreeMap<String, String>,
    /// The VMM's program.
    pub vmm_binary: PathBuf,
    /// Seconds between reports.
    pub report_interval_s: u64,
    /// Builds and starts at the same time; the others wait.
    pub max_builds: usize,
    /// How often the agent begins a command, over its deaths, before it gives up (rule 9).
    pub max_attempts: u32,
    /// Console bytes kept for each guest (the file is at most twice as large).
    pub console_bytes: u64,
    /// Bytes that the image cache may take on the disk; 0: half of its file system. What was used
    /// longest ago goes.
    pub image_cache_bytes: u64,
    /// What a simulated host has and how slow it is.
    pub simulated: SimulatedOptions,
}

/// Which [`Driver`](crate::Driver).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// Guests on `/dev/kvm`.
    #[default]
    Kvm,
    /// No guests at all, but all of their states.
    Simulated,
}

/// A simulated host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatedOptions {
    /// Logical CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB.
    pub disk_gib: u64,
    /// Milliseconds that each step takes.
    pub step_ms: u64,
    /// Physical networks that it is wired to.
    pub physical_networks: Vec<String>,
}

impl Default for SimulatedOptions {
    fn default() -> Self {
        Self {
            vcpus: 16,
            memory_mib: 65_536,
            disk_gib: 1_000,
            step_ms: 0,
            physical_networks: Vec::new(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/berth-agent".into(),
            controller_url: "https://127.0.0.1:8774".into(),
            controller_ca: "/etc/berth/ca.pem".into(),
            join_token: None,
            broker_urls: Vec::new(),
            driver: DriverKind::Kvm,
            hostname: None,
            address: String::new(),
            physical_networks: BTreeMap::new(),
            vmm_binary: "berth-vmm".into(),
            report_interval_s: 10,
            max_builds: 4,
            max_attempts: 10,
            console_bytes: 1 << 20,
            image_cache_bytes: 0,
            simulated: SimulatedOptions::default(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A key or value is wrong; names it and where it came from.
    #[error("configuration: {0}")]
    Figment(Box<figment::Error>),
    /// A value makes no sense.
    #[error("configuration: {key} is {value}, but must be {must}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        must: &'static str,
    },
}

impl Options {
    /// Reads `file` (which must exist, if given) and the environment.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn load(file: Option<&Path>) -> Result<Self, OptionsError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            figment = figment.merge(Toml::file_exact(file));
        }
        // These two are the program's own flags, not options.
        let environment = Env::prefixed("BERTH_AGENT_").ignore(&["config", "log_format"]);
        let options: Self = figment
            .merge(environment.split("__"))
            .extract()
            .map_err(|error| OptionsError::Figment(Box::new(error)))?;
        options.checked()
    }

    /// Itself, if its values make sense.
    ///
    /// # Errors
    /// [`OptionsError::Value`], naming the key.
    pub fn checked(self) -> Result<Self, OptionsError> {
        let positive = [
            ("report_interval_s", self.report_interval_s),
            ("max_builds", self.max_builds as u64),
            ("max_attempts", self.max_attempts.into()),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(OptionsError::Value {
                    key,
                    value: "0".into(),
                    must: "at least 1",
                });
            }
        }
        Ok(self)
    }

    /// [`Options::report_interval_s`] as a duration.
    pub fn report_interval(&self) -> Duration {
        Duration::from_secs(self.report_interval_s)
    }

    /// The host's label.
    pub fn hostname(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            name.map_or_else(|_| "localhost".into(), |n| n.trim().to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_sets_what_it_names_and_leaves_the_rest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "driver = 'simulated'\nbroker_urls = ['amqp://a', 'amqp://b']\n[physical_networks]\nphysnet1 = 'eth1'\n",
        )
        .unwrap();
        let options = Options::load(Some(file.path())).unwrap();
        assert_eq!(options.driver, DriverKind::Simulated);
        assert_eq!(options.broker_urls, ["amqp://a", "amqp://b"]);
        assert_eq!(options.physical_networks["physnet1"], "eth1");
        assert_eq!(options.report_interval_s, 10);
    }

    #[test]
    fn an_unknown_key_and_a_senseless_value_are_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "sate_dir = '/x'\n").unwrap();
        let error = Options::load(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("sate_dir"), "{error}");
        std::fs::write(file.path(), "max_builds = 0\n").unwrap();
        let error = Options::load(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("max_builds is 0"), "{error}");
    }
}
