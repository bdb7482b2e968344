//! What can be set of the logic and of the APIs. The configuration file's other keys are the program's.

use berth_scheduler::Policy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the logic of every controller of a cloud must agree on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlSettings {
    /// Seconds without a report, by the cloud's own clock ([`crate::beat`]), after which a host counts
    /// as down for placement. Nothing is freed by it (PROTOCOL.md, rule 1).
    pub service_down_time: u32,
    /// Seconds without a sign of life after which an operation is reported as suspicious.
    pub silence_limit: u32,
    /// Seconds that a guest has to power off by itself at a stop or a soft reboot.
    pub shutdown_timeout: u32,
    /// Hosts that a create tries before it fails.
    pub max_attempts: u32,
    /// The scheduler's knobs.
    pub scheduler: Policy,
    /// A token by which any number of hosts may join; for set-ups made by script. Tokens from
    /// `berth-controller token create` are good for one host.
    pub join_token: Option<String>,
    /// The broker's URL that joining agents are told, if the controller hands it out.
    pub agent_broker_url: Option<String>,
    /// The private key (P-256, PKCS#8, PEM) by which hosts get accounts of their own at the broker,
    /// the same for all controllers. Without it they share the login of `agent_broker_url`, and
    /// each can pass for another.
    pub broker_key: Option<PathBuf>,
    /// How many seconds such an account is good for; a host renews it at half of them.
    pub broker_account_lifetime: u32,
    /// Whether hosts are given certificates, and must show them from then on. Not where something
    /// else than the controllers ends TLS.
    pub host_certificates: bool,
}

/// Reports that the hosts of a cloud send in a second, altogether: more hosts report less often.
const REPORTS_A_SECOND: u32 = 333;

impl ControlSettings {
    /// Seconds between two reports of a host in a cloud of so many, at the least. One that is lost does not
    /// make a host down.
    pub fn report_every(&self, hosts: u32) -> u32 {
        let most = (self.service_down_time / 2).max(1);
        hosts.div_ceil(REPORTS_A_SECOND).min(most)
    }
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            service_down_time: 60,
            silence_limit: 60,
            shutdown_timeout: 60,
            max_attempts: 3,
            scheduler: Policy::default(),
            join_token: None,
            agent_broker_url: None,
            broker_key: None,
            broker_account_lifetime: 3600,
            host_certificates: true,
        }
    }
}

/// What an operator may tune of the APIs.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// The catalogue's one region.
    pub region: String,
    /// How long a token is good for, in seconds.
    pub token_lifetime_secs: i64,
    /// The largest image that is taken, in bytes.
    pub max_image_bytes: u64,
    /// How many bytes of images a project may store.
    pub project_image_bytes: u64,
    /// Who has it is shown `/metrics`; empty: nobody is.
    pub metrics_token: String,
    /// The physical network of a flat network that names none.
    pub default_physical_network: String,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            region: "RegionOne".into(),
            token_lifetime_secs: 4 * 3600,
            max_image_bytes: 64 << 30,
            project_image_bytes: 1 << 40,
            metrics_token: String::new(),
            default_physical_network: "physnet1".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_hosts_report_less_often_and_twice_before_they_are_down() {
        let control = ControlSettings::default();
        let told = [0, 1, 333, 1_000, 10_000, u32::MAX].map(|hosts| control.report_every(hosts));
        assert_eq!(told, [0, 1, 1, 4, 30, 30]);
        let hasty = ControlSettings {
            service_down_time: 1,
            ..control
        };
        assert_eq!(hasty.report_every(u32::MAX), 1);
    }
}
