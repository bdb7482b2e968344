//! Hosts' accounts at the broker: tokens that controllers sign and RabbitMQ checks.
//!
//! Nothing of an account is kept, here or there: a token says whose it is, what it reaches
//! ([`Reach`]) and until when. The broker has the public key
//! (`rabbitmq_auth_backend_oauth2`; docs/operating.md), so that it needs no controller to let a host
//! in. A host that has been removed, or that has joined anew with another secret, gets no further
//! token.

use berth_rpc::RpcError;
use berth_rpc::account::Reach;
use berth_rpc_types::HostId;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What tokens are for, and the prefix of what they reach: the plugin's `resource_server_id`. Also
/// the key's name there.
const RESOURCE: &str = "berth";

/// Why hosts get no accounts.
#[derive(Debug, thiserror::Error)]
pub enum BrokerKeyError {
    /// The file.
    #[error("control.broker_key {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in it.
    #[error(
        "control.broker_key {path} holds no private key of P-256 in PKCS#8: {source}; make one with \
         `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        source: jsonwebtoken::errors::Error,
    },
    /// The brokers' URLs.
    #[error("control.broker_key goes with brokers that check it: {0}")]
    Brokers(#[from] RpcError),
}

/// Signs hosts' tokens.
pub struct BrokerAccounts {
    key: EncodingKey,
    reach: Reach,
    /// How long a token is good for, in seconds.
    pub lifetime_s: u32,
}

#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    aud: &'static str,
    sub: HostId,
    scope: Vec<String>,
    exp: i64,
}

impl BrokerAccounts {
    /// With the private key in a file, for the brokers of these URLs.
    ///
    /// # Errors
    /// [`BrokerKeyError`]
    pub fn load(path: &Path, urls: &[String], lifetime_s: u32) -> Result<Self, BrokerKeyError> {
        let path = path.to_owned();
        let pem = match std::fs::read(&path) {
            Ok(pem) => pem,
            Err(source) => return Err(BrokerKeyError::File { path, source }),
        };
        let key = match EncodingKey::from_ec_pem(&pem) {
            Ok(key) => key,
            Err(source) => return Err(BrokerKeyError::Key { path, source }),
        };
        let accounts = Self {
            key,
            reach: Reach::at(urls)?,
            lifetime_s,
        };
        // It must sign now, rather than when the first host asks.
        match accounts.signed(HostId::from_u128(0), 0) {
            Ok(_) => Ok(accounts),
            Err(source) => Err(BrokerKeyError::Key { path, source }),
        }
    }

    /// A host's token, made at `now` (Unix milliseconds).
    pub fn token(&self, host: HostId, now: i64) -> Option<String> {
        self.signed(host, now / 1000 + i64::from(self.lifetime_s))
            .inspect_err(|error| tracing::error!(%error, "a broker token was not signed"))
            .ok()
    }

    fn signed(&self, host: HostId, exp: i64) -> Result<String, jsonwebtoken::errors::Error> {
        let reach = self.reach.of(host);
        let claims = Claims {
            iss: RESOURCE,
            aud: RESOURCE,
            sub: host,
            scope: reach.iter().map(|r| format!("{RESOURCE}.{r}")).collect(),
            exp,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(RESOURCE.into());
        jsonwebtoken::encode(&header, &claims, &self.key)
    }
}
