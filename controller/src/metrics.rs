//! `/metrics`: what one controller counts, in Prometheus' text form.
//!
//! What the database knows (operations, the outbox) is asked when it is asked for, so that any
//! controller of several gives the same numbers.

use crate::core::AppState;
use crate::core::store::StoreError;
use std::fmt::Write as _;

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
                    .query::<(String, u64)>(
                        "SELECT kind, COUNT(*) AS n FROM operations WHERE state = 'running' \
                         GROUP BY kind ORDER BY kind",
                        &[],
                    )
                    .await?;
                let outbox = tx
                    .query_opt::<(u64,)>(
                        "SELECT COUNT(*) AS n FROM outbox WHERE next_send_at IS NOT NULL",
                        &[],
                    )
                    .await?;
                let hosts = tx
                    .query_opt::<(u64,)>("SELECT COUNT(*) AS n FROM hosts", &[])
                    .await?;
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
    for ((service, status), n) in app.metrics.requests() {
        line(
            &mut out,
            "berth_requests_total",
            &[("service", &service), ("status", &status.to_string())],
            n,
        );
    }
    heading(
        &mut out,
        "berth_commands_sent_total",
        "counter",
        "Commands that the broker took from this process",
    );
    let (first, again) = app.metrics.commands_sent();
    for (again, n) in [("false", first), ("true", again)] {
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
        "Operations under way",
    );
    for (kind, n) in &operations {
        line(&mut out, "berth_operations", &[("kind", kind)], *n);
    }
    for (name, what, found) in [
        ("berth_outbox_depth", "Commands without an answer", outbox),
        ("berth_hosts", "Hosts that have joined", hosts),
    ] {
        heading(&mut out, name, "gauge", what);
        line(&mut out, name, &[], found.map_or(0, |(n,)| n));
    }
    Ok(out)
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
