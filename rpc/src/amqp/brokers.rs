//! The list of brokers, from URLs. Secrets in them are never shown.

use crate::RpcError;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use std::fs;

/// Bytes of a frame, unless the URL says otherwise: the client keeps room for 64 of them a connection,
/// which would be 8 MiB with RabbitMQ's own 128 KiB. A message may be of many frames.
const FRAME_MAX: u32 = 16 << 10;
/// Seconds between heartbeats, unless the URL says otherwise: a broker's host that vanished is
/// noticed after twice that.
const HEARTBEAT_S: u16 = 10;
/// Milliseconds for TCP to connect.
const CONNECT_WITHIN_MS: u64 = 5_000;

/// The brokers of one cluster.
pub(super) struct Brokers {
    pub(super) list: Vec<Broker>,
    /// Put before queue names with a dot; empty for none.
    pub(super) namespace: String,
}

/// One of them.
pub(super) struct Broker {
    pub(super) uri: AMQPUri,
    /// PEM certificates to trust beside the system's.
    ca: Option<String>,
    /// For logs.
    pub(super) label: String,
}

impl Brokers {
    pub(super) fn parse(urls: &[&str]) -> Result<Self, RpcError> {
        let mut list = Vec::new();
        let mut namespaces = Vec::new();
        for url in urls {
            let (broker, namespace) = parse_one(url)?;
            list.push(broker);
            namespaces.push(namespace);
        }
        namespaces.dedup();
        match <[String; 1]>::try_from(namespaces) {
            Ok([namespace]) => Ok(Self { list, namespace }),
            Err(several) => Err(RpcError::Configuration(format!(
                "the brokers' URLs must all have the same namespace, not {several:?}"
            ))),
        }
    }
}

impl Broker {
    /// The name that its URL's login has there, if it is by name and password.
    pub(super) fn user(&self) -> Option<String> {
        let by_name = self.uri.query.auth_mechanism.is_none();
        by_name.then(|| self.uri.authority.userinfo.username.clone())
    }

    pub(super) fn tls(&self) -> OwnedTLSConfig {
        OwnedTLSConfig {
            identity: None,
            cert_chain: self.ca.clone(),
        }
    }
}

fn parse_one(url: &str) -> Result<(Broker, String), RpcError> {
    // Without its user and secret, for messages.
    let shown = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    };
    let wrong = |why: &str| RpcError::Configuration(format!("broker URL {shown}: {why}"));
    let mut uri: AMQPUri = url.parse().map_err(|why: String| wrong(&why))?;
    // The parser knows names only, and takes an IPv6 address for localhost.
    if let Some(address) = shown
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
    {
        address.0.clone_into(&mut uri.authority.host);
    }
    // `amqp://host/` would be the vhost with the empty name, which nobody has.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    uri.query
        .connection_timeout
        .get_or_insert(CONNECT_WITHIN_MS);

    let mut ca = None;
    let mut namespace = String::new();
    for (key, value) in query(url) {
        match key {
            "cafile" => {
                let pem = fs::read_to_string(value)
                    .map_err(|error| wrong(&format!("cannot read the CA file {value}: {error}")))?;
                if !pem.contains("-----BEGIN CERTIFICATE-----") {
                    return Err(wrong(&format!("{value} holds no PEM certificate")));
                }
                ca = Some(pem);
            }
            "namespace" => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                // AMQP names are at most 255 bytes, and ours come after it.
                if value.is_empty() || value.len() > 64 || !value.chars().all(plain) {
                    let rule = "namespace must be 1 to 64 of a-z, A-Z, 0-9, - and _";
                    return Err(wrong(rule));
                }
                value.clone_into(&mut namespace);
            }
            "heartbeat" | "connection_timeout" | "frame_max" | "channel_max" | "auth_mechanism" => {
            }
            unknown => return Err(wrong(&format!("unknown query `{unknown}`"))),
        }
    }
    if ca.is_some() && uri.scheme == AMQPScheme::AMQP {
        return Err(wrong("a cafile is for amqps://"));
    }
    let authority = &uri.authority;
    let label = format!(
        "{}://{}:{}/{}",
        uri.scheme, authority.host, authority.port, uri.vhost
    );
    Ok((Broker { uri, ca, label }, namespace))
}

fn query(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let text = url.split_once('?').map_or("", |(_, query)| query);
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(url: &str) -> String {
        Brokers::parse(&[url]).err().unwrap().to_string()
    }

    #[test]
    fn a_list_of_brokers_keeps_its_order_and_shares_a_namespace() {
        let urls = [
            "amqp://a:b@one?namespace=x",
            "amqp://a:b@two:99/v?namespace=x",
        ];
        let brokers = Brokers::parse(&urls).unwrap();
        let labels: Vec<&str> = brokers.list.iter().map(|b| b.label.as_str()).collect();
        assert_eq!(labels, ["amqp://one:5672//", "amqp://two:99/v"]);
        assert_eq!(brokers.namespace, "x");
    }

    #[test]
    fn different_namespaces_are_refused() {
        let error = Brokers::parse(&["amqp://one?namespace=x", "amqp://two"])
            .err()
            .unwrap();
        assert!(error.to_string().contains("same namespace"));
    }

    #[test]
    fn an_ipv6_address_is_not_localhost() {
        let brokers = Brokers::parse(&["amqp://[fd00::1]:5673/"]).unwrap();
        assert_eq!(brokers.list[0].uri.authority.host, "fd00::1");
        assert_eq!(brokers.list[0].uri.vhost, "/");
    }

    #[test]
    fn messages_about_a_url_do_not_show_its_secret() {
        for url in [
            "amqp://user:hush@host:x/",
            "amqp://user:hush@host/?namespace=a.b",
            "amqps://user:hush@host/?cafile=/nonexistent",
            "amqp://user:hush@host/?colour=red",
        ] {
            let message = refused(url);
            assert!(message.contains("host"), "{message}");
            assert!(!message.contains("hush"), "{message}");
        }
    }
}
