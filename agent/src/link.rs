//! The agent's conversation with the controller that is not the broker's: [`Controller`] is
//! the seam, [`HttpsLink`] speaks HTTPS with the operator's CA and nothing else.
//!
//! A host proves its key in the TLS handshake, by a certificate that the controller gave for it. The
//! first call asks for one; after a call that failed the next one asks anew, since what failed may
//! have been the certificate: it expired, or the controllers have another authority now.
//!
//! Nothing here retries: the callers know what is worth how much patience.

use crate::identity::{HostKey, Shown};
use berth_rpc::clock::Clock;
use berth_rpc_types::link::{
    BrokerReply, BrokerRequest, CertificateReply, JoinReply, JoinRequest, NetworkDocument,
    SyncReply, SyncRequest,
};
use berth_rpc_types::{HostId, ImageSpec};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Why the controller did not answer as hoped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Worth trying again.
    #[error(
        "the controller at {url} cannot be reached: {reason}; check controller_url and controller_ca"
    )]
    Unreachable {
        /// What was called.
        url: String,
        /// Why not.
        reason: String,
    },
    /// It answered, and refused.
    #[error("the controller refused {url}: {status} {message}")]
    Refused {
        /// What was called.
        url: String,
        /// HTTP status.
        status: u16,
        /// The controller's words.
        message: String,
    },
    /// The configuration makes no link.
    #[error("{0}")]
    Configuration(String),
}

/// Bytes from the controller.
pub type ByteStream = BoxStream<'static, Result<Bytes, LinkError>>;

/// The controller, as a joined host sees it.
pub trait Controller: Send + Sync {
    /// Reports, and learns epoch, losses and acknowledgements.
    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<SyncReply, LinkError>>;
    /// What the host's networks are to be.
    fn networks(&self) -> BoxFuture<'_, Result<NetworkDocument, LinkError>>;
    /// An image's bytes from `offset` on.
    fn image<'a>(
        &'a self,
        image: &'a ImageSpec,
        offset: u64,
    ) -> BoxFuture<'a, Result<ByteStream, LinkError>>;
}

/// What a host proves that it is one with.
pub struct Credentials {
    /// Its id.
    pub host_id: HostId,
    /// The secret that it joined with.
    pub secret: String,
    /// Its key.
    pub key: HostKey,
}

/// HTTPS to the controller. Clones are the same link.
#[derive(Clone)]
pub struct HttpsLink(Arc<Link>);

struct Link {
    base: String,
    ca_pem: Vec<u8>,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    /// Shows no certificate.
    plain: reqwest::Client,
    /// Shows one, if there is one.
    proving: Mutex<Option<Proving>>,
}

#[derive(Clone)]
struct Proving {
    client: reqwest::Client,
    /// When to ask for the next certificate, by the monotonic clock.
    renew_at: Duration,
}

/// A call that is no image must be over by then.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an image must not stop for longer.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How often a controller that gives no certificates is asked for one again.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// The largest JSON answer that is read.
const ANSWER_LIMIT: usize = 16 << 20;

impl HttpsLink {
    /// A link to `url` (`https://host:port`), which must show a certificate that `ca_pem`
    /// vouches for.
    ///
    /// # Errors
    /// [`LinkError::Configuration`] if the URL is not HTTPS or the CA is none.
    pub fn new(
        url: &str,
        ca_pem: &[u8],
        credentials: Credentials,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LinkError> {
        Ok(Self(Arc::new(Link {
            plain: client(url, ca_pem, None)?,
            base: url.trim_end_matches('/').to_owned(),
            ca_pem: ca_pem.to_owned(),
            credentials,
            clock,
            proving: Mutex::default(),
        })))
    }

    /// Joins with a one-time token, and gives what is to be kept.
    ///
    /// # Errors
    /// [`LinkError::Refused`] if the token is used up or wrong.
    pub async fn join(
        url: &str,
        ca_pem: &[u8],
        request: &JoinRequest,
    ) -> Result<JoinReply, LinkError> {
        let url_of_join = format!("{}/agent/v1/join", url.trim_end_matches('/'));
        let call = client(url, ca_pem, None)?.post(&url_of_join).json(request);
        json(&url_of_join, call).await
    }

    /// Asks for this host's queues and its account at the broker.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with 404 from a controller that knows no accounts.
    pub async fn broker(&self, request: &BrokerRequest) -> Result<BrokerReply, LinkError> {
        self.call("/agent/v1/broker", |client, url| {
            client.post(url).json(request)
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.base)
    }

    fn authorised(&self, call: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let Credentials {
            host_id, secret, ..
        } = &self.0.credentials;
        call.bearer_auth(secret)
            .header("X-Berth-Host", host_id.to_string())
    }

    /// A call that proves the host's key.
    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        call: impl FnOnce(&reqwest::Client, &str) -> reqwest::RequestBuilder,
    ) -> Result<T, LinkError> {
        let url = self.url(path);
        let client = self.proving().await?;
        let answer = json(&url, self.authorised(call(&client, &url))).await;
        if let Err(LinkError::Unreachable { .. } | LinkError::Refused { status: 401, .. }) = &answer
        {
            *self.0.proving.lock().await = None;
        }
        answer
    }

    /// The client whose connections show this host's certificate.
    async fn proving(&self) -> Result<reqwest::Client, LinkError> {
        let link = &self.0;
        let mut proving = link.proving.lock().await;
        let now = link.clock.monotonic();
        if let Some(proving) = proving.as_ref().filter(|p| now < p.renew_at) {
            return Ok(proving.client.clone());
        }
        let url = self.url("/agent/v1/certificate");
        let request = link.credentials.key.request()?;
        let asked = json(&url, self.authorised(link.plain.post(&url)).json(&request)).await;
        let given = match asked {
            // A controller of the release before gives none.
            Err(LinkError::Refused { status: 404, .. }) => Ok(CertificateReply::default()),
            asked => asked,
        };
        let next = match (given, proving.as_ref()) {
            (Ok(given), _) => self.shows(&given, now)?,
            // There is time for another try.
            (Err(error), Some(last)) => {
                tracing::warn!(%error, "the certificate is not renewed yet");
                Proving {
                    client: last.client.clone(),
                    renew_at: now + ASK_AGAIN,
                }
            }
            (Err(error), None) => return Err(error),
        };
        let client = next.client.clone();
        *proving = Some(next);
        Ok(client)
    }

    fn shows(&self, given: &CertificateReply, now: Duration) -> Result<Proving, LinkError> {
        let link = &self.0;
        let Some(certificate) = &given.certificate else {
            return Ok(Proving {
                client: link.plain.clone(),
                renew_at: now + ASK_AGAIN,
            });
        };
        let shown = link.credentials.key.shown(certificate)?;
        Ok(Proving {
            client: client(&link.base, &link.ca_pem, Some(shown))?,
            renew_at: now + Duration::from_secs(given.lifetime_s) / 3,
        })
    }
}

impl Controller for HttpsLink {
    fn sync(&self, request: SyncRequest) -> BoxFuture<'_, Result<SyncReply, LinkError>> {
        Box::pin(async move {
            self.call("/agent/v1/sync", |client, url| {
                client.post(url).json(&request)
            })
            .await
        })
    }

    fn networks(&self) -> BoxFuture<'_, Result<NetworkDocument, LinkError>> {
        Box::pin(async move {
            self.call("/agent/v1/networks", |client, url| client.get(url))
                .await
        })
    }

    fn image<'a>(
        &'a self,
        image: &'a ImageSpec,
        offset: u64,
    ) -> BoxFuture<'a, Result<ByteStream, LinkError>> {
        Box::pin(async move {
            // A path of the controller's, never another server's address.
            if !image.path.starts_with('/') || image.path.starts_with("//") {
                let message = format!(
                    "image {}: {:?} is no path on the controller",
                    image.id, image.path
                );
                return Err(LinkError::Configuration(message));
            }
            let url = self.url(&image.path);
            let mut call = self.0.plain.get(&url).bearer_auth(&image.token);
            if offset > 0 {
                call = call.header("Range", format!("bytes={offset}-"));
            }
            let response = call.send().await.map_err(|e| unreachable(&url, &e))?;
            let response = accepted(&url, response).await?;
            // A server that ignores Range sends all of it: skip what is there already.
            let skip = if response.status().as_u16() == 206 {
                0
            } else {
                offset
            };
            let bytes = response
                .bytes_stream()
                .map_err(move |e| unreachable(&url, &e));
            Ok(skipping(bytes.boxed(), skip))
        })
    }
}

fn skipping(bytes: ByteStream, skip: u64) -> ByteStream {
    let mut left = skip;
    bytes
        .map_ok(move |mut chunk| {
            let cut = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            left -= cut as u64;
            chunk.split_off(cut)
        })
        .boxed()
}

fn client(url: &str, ca_pem: &[u8], shown: Option<Shown>) -> Result<reqwest::Client, LinkError> {
    let wrong = |message: String| LinkError::Configuration(message);
    if !url.starts_with("https://") {
        return Err(wrong(format!(
            "controller_url {url:?} must begin with https://"
        )));
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut &*ca_pem) {
        let certificate = certificate.map_err(|e| wrong(format!("controller_ca: {e}")))?;
        roots
            .add(certificate)
            .map_err(|e| wrong(format!("controller_ca: {e}")))?;
    }
    if roots.is_empty() {
        return Err(wrong(
            "controller_ca holds no certificate in PEM form".into(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(format!("TLS: {e}")))?
        .with_root_certificates(roots);
    let tls = match shown {
        None => tls.with_no_client_auth(),
        Some((chain, key)) => tls
            .with_client_auth_cert(chain, key)
            .map_err(|e| wrong(format!("this host's certificate: {e}")))?,
    };
    reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(READ_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|e| wrong(format!("HTTP client: {}", chain(&e))))
}

async fn json<T: serde::de::DeserializeOwned>(
    url: &str,
    call: reqwest::RequestBuilder,
) -> Result<T, LinkError> {
    let response = call
        .timeout(CALL_LIMIT)
        .send()
        .await
        .map_err(|e| unreachable(url, &e))?;
    let mut response = accepted(url, response).await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(url, &e))? {
        if body.len() + chunk.len() > ANSWER_LIMIT {
            return Err(LinkError::Unreachable {
                url: url.to_owned(),
                reason: format!("its answer is larger than {ANSWER_LIMIT} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|error| LinkError::Unreachable {
        url: url.to_owned(),
        reason: format!("its answer is not understood: {error}"),
    })
}

async fn accepted(
    url: &str,
    mut response: reqwest::Response,
) -> Result<reqwest::Response, LinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let first = response.chunk().await.ok().flatten().unwrap_or_default();
    let message: String = String::from_utf8_lossy(&first).chars().take(500).collect();
    if status.is_server_error() {
        return Err(LinkError::Unreachable {
            url: url.to_owned(),
            reason: format!("{status}: {message}"),
        });
    }
    Err(LinkError::Refused {
        url: url.to_owned(),
        status: status.as_u16(),
        message,
    })
}

fn unreachable(url: &str, error: &reqwest::Error) -> LinkError {
    LinkError::Unreachable {
        url: url.to_owned(),
        reason: chain(error),
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
