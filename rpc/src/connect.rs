//! A transport by URL.

use crate::amqp::Amqp;
use crate::clock::{Clock, Rng};
use crate::inproc::{Faults, InProcess};
use crate::{Accounts, RpcError, Transport};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Who connects.
#[derive(Clone, Default)]
pub struct Client {
    /// Shown in the broker's list of connections.
    pub name: String,
    /// Where a host's account comes from; without it the URLs' logins are used.
    pub accounts: Option<Arc<dyn Accounts>>,
    /// A controller's id, the same at each start: names the queue of answers to what it asks.
    pub asks_as: Option<Uuid>,
}

impl Client {
    /// With the URLs' login.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

/// Opens the transport that the URLs name. It returns at once: a broker that cannot be reached
/// now is tried until it can.
///
/// - `amqp://user:secret@host:5672/vhost` and `amqps://...`: RabbitMQ. Several URLs, as items or
///   within one separated by commas, are the brokers of one cluster, tried in random order.
///   Queries: `cafile=/path/ca.pem` (TLS: trust this CA), `namespace=name` (put before queue
///   names, so that several clouds share a vhost), and lapin's own (`heartbeat=10`).
/// - `inproc://name`: a broker within this process, made by the first to name it.
/// - `unix:///path`: such a broker of another process, which serves it there ([`crate::socket`]).
///
/// Must be called within a tokio runtime.
///
/// # Errors
/// [`RpcError::Configuration`] if a URL is not understood, names a CA file that cannot be read,
/// or mixes kinds.
pub fn connect(
    urls: &[String],
    client: Client,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
) -> Result<Arc<dyn Transport>, RpcError> {
    let urls = listed(urls);
    let scheme = |url: &str| url.split_once("://").map(|(scheme, _)| scheme.to_owned());
    let schemes: Vec<Option<String>> = urls.iter().map(|url| scheme(url)).collect();
    let all = |wanted: &[&str]| {
        let known = |s: &Option<String>| s.as_deref().is_some_and(|s| wanted.contains(&s));
        !schemes.is_empty() && schemes.iter().all(known)
    };
    if let [url] = urls[..]
        && all(&["inproc"])
    {
        return Ok(in_process(url, clock, rng).transport());
    }
    if let [url] = urls[..]
        && let Some(path) = url.strip_prefix("unix://")
    {
        return Ok(crate::socket::Client::open(path.into(), clock));
    }
    if all(&["amqp", "amqps"]) {
        return Amqp::open(&urls, client, clock, rng);
    }
    Err(RpcError::Configuration(format!(
        "{}: transport URLs must be one `inproc://name` or `unix:///path`, or one or more of \
         `amqp://` and `amqps://`; there are {} with schemes {:?}",
        client.name,
        urls.len(),
        schemes
            .iter()
            .map(|s| s.as_deref().unwrap_or("none"))
            .collect::<Vec<_>>()
    )))
}

/// The URLs, one by one.
pub(crate) fn listed(urls: &[String]) -> Vec<&str> {
    urls.iter()
        .flat_map(|item| item.split(','))
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .collect()
}

/// The broker of that name in this process: that of the URL `inproc://name`.
pub fn in_process(url: &str, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> InProcess {
    static BROKERS: Mutex<BTreeMap<String, InProcess>> = Mutex::new(BTreeMap::new());
    let mut brokers = BROKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || InProcess::new(Faults::default(), rng, clock);
    brokers.entry(url.to_owned()).or_insert_with(make).clone()
}
