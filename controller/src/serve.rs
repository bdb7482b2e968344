//! The listener: one port, TLS or (for tests and one machine) plain, HTTP/1.1 and HTTP/2.
//!
//! What a client costs is bounded before anything is known of it: so many connections at once, so
//! many from one address, and a time for the handshake, for a request's head, and for each next
//! part of its body. Of HTTP/2 a connection has a bounded number of requests under way.
//!
//! At shutdown it stops accepting and lets the requests under way finish, for a bounded time.

#![allow(
    clippy::disallowed_methods,
    reason = "the network's edge: it waits for clients, by their time"
)]

use crate::core::host_ca::PeerKey;
use crate::tls;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// What a client has for its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// What a client has for a request's head, from its connection's last answer on.
pub const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// What a client has for the next part of a body.
const BODY_LIMIT: Duration = Duration::from_secs(60);
/// After so long without a sign of life of an HTTP/2 client it is asked for one, and has as long.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Requests of one HTTP/2 connection under way at once.
const STREAMS: u32 = 128;
/// What requests under way have at shutdown.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections are served at once, and how long one that says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all clients. More wait in the kernel's queue.
    pub connections: usize,
    /// Of one address. More are closed.
    pub per_address: usize,
    /// See [`HEAD_LIMIT`].
    pub head: Duration,
}

/// Connections by address; a connection's [`Place`] counts it out again.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more of this address; `None` if it has as many as it may.
    fn take(&self, address: IpAddr, most: usize) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            addresses: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts();
        if let Entry::Occupied(mut entry) = counts.entry(self.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Serves until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let acceptor = tls.map(TlsAcceptor::from);
    let router = router.layer(RequestBodyTimeoutLayer::new(BODY_LIMIT));
    let addresses = Addresses::default();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if connections.len() < limits.connections => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = addresses.take(peer.ip(), limits.per_address) else {
            tracing::warn!(%peer, most = limits.per_address, "too many connections of one address: this one is closed");
            continue;
        };
        // Small answers must not wait for the peer's delayed acknowledgement.
        drop(stream.set_nodelay(true));
        let (router, acceptor, stop) = (router.clone(), acceptor.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            match acceptor {
                None => connection(stream, Http::One(limits.head), None, router, stop).await,
                Some(acceptor) => {
                    let shaken = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream));
                    match shaken.await {
                        Ok(Ok(stream)) => {
                            let shook = stream.get_ref().1;
                            let key = tls::peer_key(shook);
                            let http = match shook.alpn_protocol() {
                                Some(b"h2") => Http::Two,
                                _ => Http::One(limits.head),
                            };
                            connection(stream, http, key, router, stop).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                    }
                }
            }
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_LIMIT, drained).await.is_err() {
        tracing::warn!("requests were still under way; their connections are closed");
    }
}

/// What a connection speaks: as its TLS handshake agreed, so that no first bytes are waited for to
/// tell.
enum Http {
    /// HTTP/1.1, with so long for a request's head.
    One(Duration),
    /// HTTP/2
    Two,
}

async fn connection<S>(
    stream: S,
    http: Http,
    key: Option<PeerKey>,
    router: Router,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    match http {
        Http::One(head) => {
            builder = builder.http1_only();
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(head);
        }
        Http::Two => {
            builder = builder.http2_only();
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_INTERVAL)
                .max_concurrent_streams(STREAMS);
        }
    }
    // Every request of the connection is told whose key its handshake proved.
    let router = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(key) = &key {
            request.extensions_mut().insert(key.clone());
        }
        request
    });
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection.into_owned());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn server(limits: Limits) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "here" }));
        tokio::spawn(serve(
            listener,
            None,
            router,
            limits,
            CancellationToken::new(),
        ));
        address
    }

    /// What a request over this connection is answered; empty if it is closed.
    async fn ask(stream: &mut TcpStream) -> String {
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let mut answer = vec![0; 4096];
        let read = match sent {
            Ok(()) => stream.read(&mut answer).await.unwrap_or(0),
            Err(_) => 0,
        };
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    #[tokio::test]
    async fn an_address_has_so_many_connections_and_gets_their_places_back() {
        let limits = Limits {
            connections: 100,
            per_address: 2,
            head: HEAD_LIMIT,
        };
        let address = server(limits).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut first).await.contains("here"));
        assert!(ask(&mut second).await.contains("here"));
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut third).await, "");
        drop(first);
        // Its place is free once the server saw it go.
        loop {
            let mut next = TcpStream::connect(address).await.unwrap();
            if ask(&mut next).await.contains("here") {
                break;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn more_connections_than_are_served_wait_for_one_to_end() {
        let limits = Limits {
            connections: 1,
            per_address: 100,
            head: HEAD_LIMIT,
        };
        let address = server(limits).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut first).await.contains("here"));
        let mut second = TcpStream::connect(address).await.unwrap();
        let waits = tokio::spawn(async move { ask(&mut second).await });
        drop(first);
        assert!(waits.await.unwrap().contains("here"));
    }

    #[tokio::test]
    async fn a_client_that_sends_no_head_is_closed() {
        let limits = Limits {
            connections: 1,
            per_address: 1,
            head: Duration::from_millis(100),
        };
        let address = server(limits).await;
        for part in ["", "GET / HTTP/1.1\r\nhost:"] {
            let mut idle = TcpStream::connect(address).await.unwrap();
            idle.write_all(part.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            idle.read_to_end(&mut rest).await.unwrap();
        }
    }
}
