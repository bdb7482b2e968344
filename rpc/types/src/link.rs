//! The agent's HTTPS conversation with the controller: joining, the heartbeat and lease
//! path (which is not the broker's, rule 6), the desired network document, image bytes.
//!
//! | call | body | answer |
//! | --- | --- | --- |
//! | `POST /agent/v1/join` | [`JoinRequest`] | [`JoinReply`] |
//! | `POST /agent/v1/certificate` | [`CertificateRequest`] | [`CertificateReply`] |
//! | `POST /agent/v1/broker` | [`BrokerRequest`] | [`BrokerReply`] |
//! | `POST /agent/v1/sync` | [`SyncRequest`] | [`SyncReply`] |
//! | `GET /agent/v1/networks` | | [`NetworkDocument`] |
//! | `GET /agent/v1/images/{id}` | | bytes; `Range` is understood |
//!
//! All but join carry `Authorization: Bearer <host secret>` and `X-Berth-Host: <host id>`, and all
//! but join and certificate come by a connection in whose handshake the certificate was shown;
//! an image's bytes carry the bearer token of their [`crate::ImageSpec`] instead.

use crate::{Capacity, HostId, NetworkId, Observation, PortId, VmmId, VmmSpec, VmmState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An agent asks to be a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The one-time token an operator made.
    pub token: String,
    /// Made once in the agent's state directory.
    pub host_id: HostId,
    /// A label.
    pub hostname: String,
    /// The host's secret, of 256 bits in hexadecimal: made by it, and kept before it asks, so that
    /// an answer that is lost costs nothing, and nobody joins in its place. A host of an
    /// earlier release has none, and is given one.
    #[serde(default)]
    pub secret: Option<String>,
}

/// What a joined host keeps in its state directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinReply {
    /// Bearer secret for this host from now on.
    pub secret: String,
    /// The broker's URL with this host's credentials, if the controller hands them out.
    #[serde(default)]
    pub broker_url: Option<String>,
}

/// A host asks for a certificate: at its start, and long before the last one expires.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// A request for its key (PKCS #10, RFC 2986), in PEM form. Nothing but the key counts.
    pub csr: String,
}

/// What it is given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CertificateReply {
    /// The certificate, in PEM form. `None`: hosts have none here, and prove their secrets only.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Seconds that it is good for.
    #[serde(default)]
    pub lifetime_s: u64,
}

/// A host asks for its queues and its account at the broker: before it connects, before the account
/// expires, and when a queue is gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BrokerRequest {
    /// Whether the queues give no answer, though their broker does: they are made anew.
    #[serde(default)]
    pub silent: bool,
}

/// What it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BrokerReply {
    /// Its account. `None`: the controllers hand none out, and the broker's URL has the login.
    #[serde(default)]
    pub account: Option<BrokerAccount>,
}

/// An account at the broker that reaches the host's own queues and the results exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BrokerAccount {
    /// The login's name: the host's id.
    pub user: String,
    /// The token that is its password.
    pub secret: String,
    /// Seconds that it is good for.
    pub lifetime_s: u32,
}

/// Sent at start, at each change, and each `report_interval` seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SyncRequest<O = Observation> {
    /// Who.
    pub host_id: HostId,
    /// A label.
    pub hostname: String,
    /// The address that other hosts reach it by.
    #[serde(default)]
    pub address: String,
    /// Agent's version.
    pub version: String,
    /// Whether this is the first sync after the agent's start.
    pub starting: bool,
    /// Whether the agent uses an account of its own at the broker where it is given one; what it
    /// publishes then carries its name. Agents of earlier releases do not say.
    #[serde(default)]
    pub knows_accounts: bool,
    /// Which start of the agent this is. Agents of earlier releases do not say.
    #[serde(default)]
    pub start: Option<AgentStart>,
    /// The timeline of that database that the agent last obeyed; `None` if it told none.
    #[serde(default)]
    pub timeline: Option<Uuid>,
    /// The highest number and watermark of this host's commands that the agent knows of.
    #[serde(default)]
    pub numbers: Option<HostNumbers>,
    /// Whether the agent refuses this controller's database, and what it has (rule 5).
    #[serde(default)]
    pub refusal: Option<Refusal>,
    /// What the guests are to be of which the last answer asked ([`SyncReply::tell`]).
    #[serde(default)]
    pub guests: Vec<StrayGuest>,
    /// The epoch that the agent has stored; 0 if none.
    pub epoch: u64,
    /// The controller database that the agent last spoke to (rule 5), if any.
    #[serde(default)]
    pub lineage: Option<String>,
    /// The highest counter seen from that lineage.
    #[serde(default)]
    pub lineage_counter: u64,
    /// What the host has.
    pub capacity: Capacity,
    /// What is not yet acknowledged; at the start, every VMM.
    pub observations: Vec<O>,
}

/// One start of an agent. By it a controller knows whether a host's journal is the one that it last
/// spoke with, and whether the host has been off: then its epoch rises (PROTOCOL.md, rule 4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStart {
    /// Drawn at random, and kept in the journal before it is told.
    pub id: Uuid,
    /// The last one that a controller has noted, as far as the journal knows.
    #[serde(default)]
    pub previous: Option<Uuid>,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

/// An observation as it arrives: one in a state that this build does not know must not hold up the
/// others of its host. It is not acknowledged, so that it is told again, to a controller that
/// knows more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reported {
    /// Understood.
    Known(Observation),
    /// Of a newer agent.
    Newer(serde_json::Value),
}

impl SyncRequest<Reported> {
    /// The request with what is understood of it, and what is not.
    pub fn understood(self) -> (SyncRequest, Vec<serde_json::Value>) {
        let mut newer = Vec::new();
        let observations = self
            .observations
            .into_iter()
            .filter_map(|reported| match reported {
                Reported::Known(observation) => Some(observation),
                Reported::Newer(value) => {
                    newer.push(value);
                    None
                }
            })
            .collect();
        let request = SyncRequest {
            observations,
            host_id: self.host_id,
            hostname: self.hostname,
            address: self.address,
            version: self.version,
            starting: self.starting,
            knows_accounts: self.knows_accounts,
            start: self.start,
            timeline: self.timeline,
            numbers: self.numbers,
            refusal: self.refusal,
            guests: self.guests,
            epoch: self.epoch,
            lineage: self.lineage,
            lineage_counter: self.lineage_counter,
            capacity: self.capacity,
        };
        (request, newer)
    }
}

/// The controller's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncReply {
    /// The host's epoch. The agent makes it durable before it acts on anything else.
    pub epoch: u64,
    /// VMMs that this host has lost, which it must remove (explicit tombstones).
    pub lost: Vec<VmmId>,
    /// Observations that are folded in, or too old to matter.
    pub acknowledged: Vec<(VmmId, u64)>,
    /// This database's lineage.
    pub lineage: String,
    /// Its counter, which never falls within a lineage.
    pub lineage_counter: u64,
    /// Revision of the host's network document.
    pub network_revision: u64,
    /// Tombstones that controllers of earlier releases let go by the clock. Empty since there are
    /// watermarks, and not followed.
    #[serde(default)]
    pub forget: Vec<VmmId>,
    /// The numbers of this host's commands; `None` from releases that know no watermark.
    #[serde(default)]
    pub numbers: Option<HostNumbers>,
    /// The timelines in which this host's commands above the watermark were drawn, oldest first; the
    /// last one is the database's own. Empty from releases that know none.
    #[serde(default)]
    pub timelines: Vec<Timeline>,
    /// Guests that the database does not know: the next report is to say what they are to be.
    #[serde(default)]
    pub tell: Vec<VmmId>,
    /// The lineage in whose place an operator has put this one, if the agent obeyed it and may follow.
    #[serde(default)]
    pub follows: Option<String>,
    /// Whether this controller's database is older than what the agent has seen; the agent
    /// then stops consuming until an operator says which is right.
    #[serde(default)]
    pub refused: Option<String>,
    /// Seconds between two reports, at the least: more in a large cloud. 0 leaves it to the agent.
    #[serde(default)]
    pub report_every_s: u32,
}

/// The numbers of a host's commands (PROTOCOL.md, rule 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNumbers {
    /// The last that was drawn.
    pub last: u64,
    /// Every command up to this one has ended: one that the agent does not know is refused, and a
    /// tombstone with no higher one may be forgotten.
    pub watermark: u64,
}

/// A stretch of a database's life, from the start of a controller to that of the next one, as one
/// host sees it. A database that was restored from a backup begins a timeline that agents have not
/// heard of, and what it noted there of a host is less than what the host knows (PROTOCOL.md, rule 5);
/// PostgreSQL tells a restored cluster's history from the lost one in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Drawn at random when it began.
    pub id: Uuid,
    /// The last number that was drawn for this host before it began.
    pub above: u64,
}

/// An agent refuses a database, and says what it has: from that an operator's acceptance goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The timeline that was refused first; `None` from a controller that told none.
    pub timeline: Option<Uuid>,
    /// Every VMM that the agent's journal knows.
    pub records: Vec<Recorded>,
}

/// What an agent's journal says of one VMM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Which.
    pub vmm_id: VmmId,
    /// The highest sequence of its commands.
    pub sequence: u64,
    /// The state last seen.
    pub state: VmmState,
    /// Whether it was deleted by order, or is being deleted.
    pub deleted: bool,
    /// Whether the journal knows what it is to be.
    #[serde(default)]
    pub is_described: bool,
}

/// A guest that the controllers' database does not know, as its agent's journal knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayGuest {
    /// Which.
    pub vmm_id: VmmId,
    /// The highest sequence of its commands.
    pub sequence: u64,
    /// What it is to be.
    pub spec: VmmSpec,
}

/// What a host's networks are to be. Compiled whole; the agent makes it so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkDocument {
    /// Rises with each change.
    pub revision: u64,
    /// The networks that this host's VMMs are on.
    pub networks: Vec<HostNetwork>,
}

/// One network on one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostNetwork {
    /// The network.
    pub id: NetworkId,
    /// `flat` so far.
    pub network_type: String,
    /// The physical network's name; the agent's configuration maps it to an interface.
    #[serde(default)]
    pub physical_network: Option<String>,
    /// MTU in bytes.
    pub mtu: u16,
    /// What DHCP serves there.
    pub subnets: Vec<HostSubnet>,
    /// Every bound port of the network on this host.
    pub ports: Vec<HostPort>,
}

/// A subnet as DHCP needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostSubnet {
    /// `10.0.0.0/24`.
    pub cidr: String,
    /// Default gateway.
    #[serde(default)]
    pub gateway: Option<std::net::IpAddr>,
    /// Resolvers.
    #[serde(default)]
    pub dns: Vec<std::net::IpAddr>,
    /// Whether DHCP serves it.
    pub dhcp: bool,
    /// The address this network's DHCP server takes on every host.
    #[serde(default)]
    pub dhcp_address: Option<std::net::IpAddr>,
}

/// A port as the host needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostPort {
    /// The port.
    pub id: PortId,
    /// Bound for this VMM.
    pub vmm_id: VmmId,
    /// MAC.
    pub mac: String,
    /// Fixed addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// The guest's hostname for DHCP.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Whether traffic goes here. A port may be bound for two VMMs while one hands over to the
    /// other; a controller that did not say so knew one binding a port.
    #[serde(default = "active")]
    pub active: bool,
}

fn active() -> bool {
    true
}
