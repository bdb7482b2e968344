//! What `berth doctor` finds beyond this machine: a broker, and a cloud's database.

use super::Finding;
use anyhow::{Context as _, bail};
use berth_controller::audit;
use berth_controller::core::store::Store;
use berth_rpc::clock::{Clock as _, SystemClock, SystemRng};
use berth_rpc::{Address, RpcError};
use berth_rpc_types::HostId;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a broker has to let us in; and then, to say why it did not.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);
const REASON_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Connects to a broker. Declares nothing and sends nothing.
pub fn broker(url: &str) -> Finding {
    let connected = runtime().and_then(|runtime| runtime.block_on(connect(url)));
    match connected {
        Ok(took) => Finding::ok("broker", format!("connected in {} ms", took.as_millis())),
        Err(error) => Finding::fail(
            "broker",
            format!("{error:#}"),
            "is RabbitMQ running, and are host, port, user and vhost of the URL right? \
             amqp://user:secret@host:5672/%2f",
        ),
    }
}

async fn connect(url: &str) -> anyhow::Result<Duration> {
    let clock = Arc::new(SystemClock::default());
    let begun = clock.monotonic();
    let urls = [url.to_owned()];
    let transport = berth_rpc::connect(
        &urls,
        berth_rpc::Client::named("berth doctor"),
        clock.clone(),
        Arc::new(SystemRng),
    )?;
    while !transport.is_connected() {
        if clock.monotonic() - begun > BROKER_PATIENCE {
            // A read of a host that cannot be: it is not sent, and tells why.
            let nobody = Address::AgentReads(HostId::from_u128(0));
            let why = transport
                .read(nobody, bytes::Bytes::new(), REASON_PATIENCE)
                .await;
            transport.close().await;
            match why {
                Err(RpcError::Disconnected(why)) => bail!("{why}"),
                _ => bail!("no connection within {BROKER_PATIENCE:?}"),
            }
        }
        clock.sleep(POLL).await;
    }
    let took = clock.monotonic() - begun;
    transport.close().await;
    Ok(took)
}

/// Audits a database: one finding for each rule that is broken, or one that says all is well.
///
/// # Errors
/// If the database cannot be read.
pub fn audit(url: &str, at_rest: bool) -> anyhow::Result<Vec<Finding>> {
    // SQLite would make a missing file, and find it in order.
    if let Some(path) = url.strip_prefix("sqlite://")
        && !Path::new(path).is_file()
    {
        bail!("--database {url}: there is no file {path}");
    }
    let broken = runtime()?.block_on(async {
        let store = Store::connect_beside(url).await;
        let store = store.with_context(|| format!("--database {}", without_secret(url)))?;
        audit::audit(&store, at_rest).await.context("the audit")
    })?;
    if broken.is_empty() {
        return Ok(vec![Finding::ok("audit", "every rule holds")]);
    }
    let finding = |broken: &audit::Finding| {
        Finding::fail(
            "audit",
            broken.to_string(),
            "a rule of the cloud's bookkeeping is broken: keep the database, and report it",
        )
    };
    Ok(broken.iter().map(finding).collect())
}

/// A URL as it may be shown: whoever reads the terminal need not learn the password.
fn without_secret(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => url.to_owned(),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_new_database_is_in_order_and_a_missing_one_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("berth.db").display());
        assert!(audit(&url, true).is_err());
        assert!(!folder.path().join("berth.db").exists());
        runtime().unwrap().block_on(Store::connect(&url)).unwrap();
        let findings = audit(&url, true).unwrap();
        assert_eq!(findings[0].verdict, Verdict::Ok, "{findings:?}");
    }

    #[test]
    fn a_url_that_is_no_brokers_is_named() {
        let finding = broker("http://localhost");
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.found.contains("http"), "{}", finding.found);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_secret("postgres://u:p@h/db"), "postgres://…@h/db");
        assert_eq!(without_secret("sqlite:///a/b"), "sqlite:///a/b");
    }
}
