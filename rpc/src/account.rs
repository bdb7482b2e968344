//! Who a client is to its broker.
//!
//! Controllers log in with what their URL says, and may do all. A host has an account of its own,
//! if the controllers hand one out: a short-lived token of theirs (RFC 7519) that RabbitMQ's
//! `rabbitmq_auth_backend_oauth2` checks by their public key alone. With it a host reads its own two
//! queues and writes to one exchange, and that is all ([`Reach`]): it declares nothing, sees no
//! other host's commands, and puts nothing into any queue but the controllers'.
//!
//! Every message carries its sender's name as the AMQP property `user-id`, which the broker compares
//! with the login: [`Sender`] is the broker's word, not the sender's.

use crate::{Address, RpcError, amqp};
use berth_rpc_types::HostId;
use futures::future::BoxFuture;
use std::time::Duration;

/// What a client logs in with.
#[derive(Clone)]
pub struct Account {
    /// The name that the broker knows it by: a host's id.
    pub user: String,
    /// The token.
    pub secret: String,
    /// When to ask for the next token.
    pub renew_after: Duration,
}

/// Where a host's account comes from.
pub trait Accounts: Send + Sync {
    /// A new account, to log in with or to go on with. `None`: the controllers hand none out,
    /// and the URL's own login is used, which may declare queues.
    ///
    /// # Errors
    /// Why there is none now, in words: it is asked for again.
    fn account(&self) -> BoxFuture<'_, Result<Option<Account>, String>>;

    /// Has the account's queues made again: one is gone, or (`silent`) gives no answer though its
    /// broker does.
    ///
    /// # Errors
    /// Why not, in words: it is asked for again.
    fn restore(&self, silent: bool) -> BoxFuture<'_, Result<(), String>>;
}

/// Who sent a message, by the broker's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A host, with its own account.
    Host(HostId),
    /// A login that is no host's: a controller's, or one that the operator made.
    Other(String),
    /// It did not say: an agent of an earlier release, which shares its login with others.
    Unnamed,
}

impl Sender {
    /// By the property `user-id`.
    pub(crate) fn named(user_id: Option<&str>) -> Self {
        match user_id {
            None | Some("") => Self::Unnamed,
            Some(name) => name
                .parse()
                .map_or_else(|_| Self::Other(name.into()), Self::Host),
        }
    }

    /// Whether what it says of this host may be believed. Only a host's account is kept to one
    /// host; whoever has another login can do all there is at the broker. One who gives no name is
    /// believed if the host has no account of its own yet (`nameless`).
    pub fn speaks_for(&self, host: HostId, nameless: bool) -> bool {
        match self {
            Self::Host(sender) => *sender == host,
            Self::Other(_) => true,
            Self::Unnamed => nameless,
        }
    }
}

/// What hosts' accounts may do at a cloud's brokers. The URLs, and the files that they name, are read
/// once.
pub struct Reach {
    /// Percent-encoded.
    vhost: String,
    namespace: String,
}

impl Reach {
    /// At the brokers of these URLs.
    ///
    /// # Errors
    /// [`RpcError::Configuration`] if the URLs are not understood.
    pub fn at(urls: &[String]) -> Result<Self, RpcError> {
        let (vhost, namespace) = amqp::vhost_and_namespace(urls)?;
        Ok(Self {
            vhost: encoded(&vhost),
            namespace,
        })
    }

    /// What one host's account may do, each as `permission:vhost/name` in the words of RabbitMQ's
    /// OAuth 2 plugin, where names are percent-encoded.
    pub fn of(&self, host: HostId) -> [String; 3] {
        let Self { vhost, namespace } = self;
        let queue = |address| amqp::queue_name(namespace, address);
        [
            format!("read:{vhost}/{}", queue(Address::Agent(host))),
            format!("read:{vhost}/{}", queue(Address::AgentReads(host))),
            format!("write:{vhost}/{}", amqp::results_exchange(namespace)),
        ]
    }
}

/// Percent-encoded, but for what never stands for anything else (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOST: HostId = HostId::from_u128(1);

    #[test]
    fn a_host_is_believed_of_itself_only() {
        let other = HostId::from_u128(2);
        for nameless in [true, false] {
            let believed = |name: Option<&str>| Sender::named(name).speaks_for(HOST, nameless);
            assert!(believed(Some(&HOST.to_string())));
            assert!(!believed(Some(&other.to_string())));
            assert!(believed(Some("berth")));
            assert_eq!(believed(None), nameless);
            assert_eq!(believed(Some("")), nameless);
        }
    }

    #[test]
    fn a_host_reaches_two_queues_and_an_exchange() {
        let urls = ["amqp://u:s@one/a%2fb*?namespace=c1".to_owned()];
        let reach = Reach::at(&urls).unwrap().of(HOST);
        assert_eq!(
            reach,
            [
                format!("read:a%2Fb%2A/c1.agent.{HOST}"),
                format!("read:a%2Fb%2A/c1.agent.{HOST}.reads"),
                "write:a%2Fb%2A/c1.results".to_owned(),
            ]
        );
    }
}
