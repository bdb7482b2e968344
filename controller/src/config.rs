//! What can be set, and from where: defaults, a TOML file, then `BERTH_*` in the environment.

use berth_controller_core::ApiSettings;
pub use berth_controller_core::ControlSettings;
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One controller's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Base of all links, without a slash at the end; made from `listen` if absent.
    pub public_url: Option<String>,
    /// Serve plain HTTP: for tests, and for one machine. Only on a loopback address.
    pub plain_http: bool,
    /// The operator's certificate chain, in PEM form; without it one is made in `state_dir`.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// The key by which hosts get certificates, in PEM form: the same for all controllers. Without it
    /// one is made in `state_dir`.
    pub hosts_ca_key: Option<PathBuf>,
    /// Names and addresses that a certificate of our own making is for.
    pub names: Vec<String>,
    /// `sqlite:///path` or `postgres://…`
    pub database: String,
    /// `amqp://`, `amqps://` (several for a cluster), or `inproc://name`.
    pub brokers: Vec<String>,
    /// Made certificates, and the SQLite database by default.
    pub state_dir: PathBuf,
    /// Image files; shared by all controllers. In `state_dir` by default.
    pub image_dir: Option<PathBuf>,
    /// Password of the user `admin`.
    pub admin_password: String,
    /// The catalogue's region.
    pub region: String,
    /// How long a token is good for, in seconds.
    pub token_lifetime_secs: i64,
    /// The largest image that is taken, in bytes.
    pub max_image_bytes: u64,
    /// How many bytes of images a project may store.
    pub project_image_bytes: u64,
    /// The bearer token with which `/metrics` is read; without it nobody reads them.
    pub metrics_token: String,
    /// Connections that are served at once.
    pub max_connections: usize,
    /// Of them, how many from one address.
    pub max_connections_per_address: usize,
    /// The physical network of a network that names none.
    pub default_physical_network: String,
    /// Log lines as JSON.
    pub log_json: bool,
    /// What all controllers of a cloud must agree on.
    pub control: ControlSettings,
}

impl Default for Config {
    fn default() -> Self {
        let api = ApiSettings::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8774)),
            public_url: None,
            plain_http: false,
            tls_cert: None,
            tls_key: None,
            hosts_ca_key: None,
            names: vec!["localhost".into(), "127.0.0.1".into()],
            database: String::new(),
            brokers: vec![],
            state_dir: "/var/lib/berth-controller".into(),
            image_dir: None,
            admin_password: String::new(),
            region: api.region,
            token_lifetime_secs: api.token_lifetime_secs,
            max_image_bytes: api.max_image_bytes,
            project_image_bytes: api.project_image_bytes,
            metrics_token: api.metrics_token,
            max_connections: 8192,
            max_connections_per_address: 2048,
            default_physical_network: api.default_physical_network,
            log_json: false,
            control: ControlSettings::default(),
        }
    }
}

/// A configuration that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or the environment; says which key.
    #[error("configuration: {0}")]
    Figment(#[source] Box<figment::Error>),
    /// Values that do not go together; says which knob to turn.
    #[error("configuration: {0}")]
    Wrong(String),
}

impl Config {
    /// Defaults, then the file, then `BERTH_*` (`BERTH_ADMIN_PASSWORD`, `BERTH_CONTROL__MAX_ATTEMPTS`).
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError::Wrong(format!("{} is no file", file.display())));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // Only the keys there are: the environment holds others' variables that begin so, too.
        let known = Self::keys();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let environment = Env::prefixed("BERTH_").only(&known);
        let control = Env::prefixed("BERTH_CONTROL__").map(|key| format!("control.{key}").into());
        figment
            .merge(environment)
            .merge(control)
            .extract()
            .map_err(|e| ConfigError::Figment(Box::new(e)))
    }

    /// The name of each key but the `[control]` table, whose keys have a prefix of their own.
    fn keys() -> Vec<String> {
        let all = serde_json::to_value(Self::default()).unwrap_or_default();
        let keys = all.as_object().into_iter().flat_map(|map| map.keys());
        keys.filter(|key| *key != "control").cloned().collect()
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] names the knob.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |why: &str| Err(ConfigError::Wrong(why.to_owned()));
        if self.admin_password.is_empty() {
            return wrong("set admin_password (or BERTH_ADMIN_PASSWORD)");
        }
        if self.plain_http && !self.listen.ip().is_loopback() {
            return wrong("plain_http is for loopback addresses only: change listen, or serve TLS");
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return wrong("tls_cert and tls_key go together");
        }
        if self.brokers.is_empty() {
            return wrong("set brokers, for example [\"amqp://user:secret@host/%2f\"]");
        }
        if self.control.broker_account_lifetime < 10 {
            return wrong("control.broker_account_lifetime must be at least 10 seconds");
        }
        let scheduler = self.control.scheduler.check();
        scheduler.map_err(|e| ConfigError::Wrong(e.to_string()))
    }

    /// The database's URL: SQLite in the state directory if none is given.
    pub fn database_url(&self) -> String {
        if self.database.is_empty() {
            format!("sqlite://{}", self.state_dir.join("berth.db").display())
        } else {
            self.database.clone()
        }
    }

    /// Where image files are.
    pub fn images(&self) -> PathBuf {
        let default = || self.state_dir.join("images");
        self.image_dir.clone().unwrap_or_else(default)
    }

    /// What the API handlers get.
    pub fn api(&self) -> ApiSettings {
        ApiSettings {
            region: self.region.clone(),
            token_lifetime_secs: self.token_lifetime_secs,
            max_image_bytes: self.max_image_bytes,
            project_image_bytes: self.project_image_bytes,
            metrics_token: self.metrics_token.clone(),
            default_physical_network: self.default_physical_network.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_read_and_a_misspelt_key_refused() {
        let path = std::env::temp_dir().join(format!("berth-{}.toml", uuid::Uuid::new_v4()));
        std::fs::write(
            &path,
            "admin_password = \"x\"\nbrokers = [\"inproc://a\"]\n[control]\nmax_attempts = 5\n\
             [control.scheduler]\ncpu_allocation_ratio = 2.0\n",
        )
        .unwrap();
        let config = Config::load(Some(&path)).unwrap();
        config.check().unwrap();
        assert_eq!(config.control.max_attempts, 5);
        assert!((config.control.scheduler.cpu_allocation_ratio - 2.0).abs() < f64::EPSILON);
        std::fs::write(&path, "admin_pasword = \"x\"\n").unwrap();
        let error = Config::load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("admin_pasword"), "{error}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_key_can_be_set_by_the_environment() {
        let keys = Config::keys();
        for key in [
            "names",
            "max_image_bytes",
            "project_image_bytes",
            "metrics_token",
            "max_connections",
            "max_connections_per_address",
            "token_lifetime_secs",
            "default_physical_network",
            // Absent by default.
            "image_dir",
            "tls_cert",
            "hosts_ca_key",
        ] {
            assert!(keys.iter().any(|k| k == key), "{key} is not in {keys:?}");
        }
        assert!(!keys.iter().any(|k| k == "control"));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        let config = Config {
            admin_password: "x".into(),
            brokers: vec!["inproc://a".into()],
            plain_http: true,
            listen: SocketAddr::from(([0, 0, 0, 0], 8774)),
            ..Config::default()
        };
        assert!(config.check().unwrap_err().to_string().contains("loopback"));
    }
}
