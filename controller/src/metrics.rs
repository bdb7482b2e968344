//! What one controller counts, and `/metrics` in Prometheus' text form.
//!
//! What the database knows (operations, the outbox) is asked when it is asked for, so that any
//! controller of several gives the same numbers.

use crate::api::AppState;
use crate::store::StoreError;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// This process's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    commands_sent: AtomicU64,
    commands_sent_again: AtomicU64,
}

impl Metrics {
    /// Counts a request of a service (the path's first part) by its answer's status.
    pub fn request(&self, service: &str, status: u16) {
        // Only known names: a caller must not choose how many lines there are.
        let known = [
            "identity",
            "compute",
            "image",
            "network",
            "placement",
            "agent",
            "healthz",
            "metrics",
        ];
        let service = if known.contains(&service) {
            service
        } else {
            "other"
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((service.to_owned(), status)).or_default() += 1;
    }

    /// Counts a command that the broker took.
    pub fn command_sent(&self, again: bool) {
        let counter = if again {
            &self.commands_sent_again
        } else {
            &self.commands_sent
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The page.
///
/// # Errors
/// The store's.
pub async fn render(app: &AppState) -> Result<String, StoreError> {
    let (operations, outbox, hosts) = app
        .store
        .tx(|tx| {
            Box::pin(async move {
                let operations = tx
                    .query(
                        "SELECT kind, state, COUNT(*) AS n FROM operations GROUP BY kind, state \
                         ORDER BY kind, state",
                        &[],
                    )
                    .await?;
                let outbox = tx
                    .query_opt(
                        "SELECT COUNT(*) AS n FROM outbox WHERE next_send_at IS NOT NULL",
                        &[],
                    )
                    .await?;
                let hosts = tx.query_opt("SELECT COUNT(*) AS n FROM hosts", &[]).await?;
                Ok::<_, StoreError>((operations, outbox, hosts))
            })
        })
        .await?;
    let mut out = String::new();
    heading(
        &mut out,
        "berth_requests_total",
        "counter",
        "Requests answered by this process",
    );
    {
        let requests = app.metrics.requests.lock();
        for ((service, status), n) in &*requests.unwrap_or_else(PoisonError::into_inner) {
            line(
                &mut out,
                "berth_requests_total",
                &[("service", service), ("status", &status.to_string())],
                *n,
            );
        }
    }
    heading(
        &mut out,
        "berth_commands_sent_total",
        "counter",
        "Commands that the broker took from this process",
    );
    for (again, counter) in [
        ("false", &app.metrics.commands_sent),
        ("true", &app.metrics.commands_sent_again),
    ] {
        let n = counter.load(Ordering::Relaxed);
        line(
            &mut out,
            "berth_commands_sent_total",
            &[("again", again)],
            n,
        );
    }
    heading(
        &mut out,
        "berth_operations",
        "gauge",
        "Operations in the database",
    );
    for row in &operations {
        let labels = [
            ("kind", &*row.text("kind")?),
            ("state", &*row.text("state")?),
        ];
        line(&mut out, "berth_operations", &labels, count(row.int("n")?));
    }
    for (name, what, row) in [
        ("berth_outbox_depth", "Commands without an answer", outbox),
        ("berth_hosts", "Hosts that have joined", hosts),
    ] {
        heading(&mut out, name, "gauge", what);
        let n = row.map_or(Ok(0), |row| row.int("n"))?;
        line(&mut out, name, &[], count(n));
    }
    Ok(out)
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn heading(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail; so below.
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    let labels = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", labels.join(","))
    };
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_caller_cannot_make_lines() {
        let metrics = Metrics::default();
        for n in 0..100 {
            metrics.request(&format!("path-{n}"), 404);
        }
        metrics.request("compute", 200);
        let requests = metrics.requests.lock().unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[&("other".to_owned(), 404)], 100);
    }
}
