//! What processes cost: CPU time and memory, as the kernel counts them, and the database's commit.

use super::cloud::Cloud;
use anyhow::Context as _;
use berth_controller::core::params;
use berth_controller::core::store::{Store, StoreError};
use std::path::Path;
use std::time::{Duration, Instant};

/// Milliseconds of CPU over a stretch.
pub struct Quiet {
    /// All controllers.
    pub controller_ms: f64,
    /// PostgreSQL's processes, if they are on this machine; SQLite is the controller's.
    pub database_ms: Option<f64>,
}

/// What a cloud costs in which nobody does anything: its heartbeats, and what is looked at in between.
///
/// # Errors
/// The system's, and the database's.
pub async fn quiet(
    cloud: &Cloud,
    store: &Store,
    interval: Duration,
    stretch: Duration,
) -> anyhow::Result<Quiet> {
    let postmaster = postmaster(cloud, store).await?;
    let controllers = cloud.controllers();
    let all = || -> anyhow::Result<(f64, Option<f64>)> {
        let of = controllers.iter().map(|pid| cpu_ms(*pid));
        let controllers: f64 = of.sum::<anyhow::Result<f64>>()?;
        Ok((controllers, postmaster.map(with_children).transpose()?))
    };
    // Controllers that start have news for every host, which it hears with its next two reports.
    tokio::time::sleep(interval * 3).await;
    let before = all()?;
    tokio::time::sleep(stretch).await;
    let after = all()?;
    Ok(Quiet {
        controller_ms: after.0 - before.0,
        database_ms: after.1.zip(before.1).map(|(after, before)| after - before),
    })
}

/// Megabytes that a process has in memory now.
///
/// # Errors
/// If it is gone.
pub fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("VmRSS")?.trim().parse()?;
    Ok(kib / 1024.0)
}

/// How long one small transaction takes, besides all else: what no API on this database can beat.
///
/// # Errors
/// [`StoreError`]
pub async fn commit(store: &Store, number: i64) -> Result<Duration, StoreError> {
    let began = Instant::now();
    store
        .tx::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO meta (name, value) VALUES ($1, 'x') \
                     ON CONFLICT (name) DO UPDATE SET value = 'y'",
                    params![format!("bench-{number}")],
                )
                .await
            })
        })
        .await?;
    Ok(began.elapsed())
}

/// PostgreSQL's first process, if it is on this machine.
async fn postmaster(cloud: &Cloud, store: &Store) -> anyhow::Result<Option<u32>> {
    if !cloud.is_postgres() {
        return Ok(None);
    }
    let sql = "SELECT CAST(pg_backend_pid() AS BIGINT) AS pid";
    let pid: Option<(u32,)> = store.query_opt(sql, params![]).await?;
    let Some((pid,)) = pid else { return Ok(None) };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if !name.starts_with("postgres") {
        return Ok(None);
    }
    Ok(stat(format!("/proc/{pid}/stat"))?.map(|stat| stat.parent))
}

struct Stat {
    parent: u32,
    /// Clock ticks: of itself, and of children that have ended.
    own: f64,
    ended: f64,
}

/// `proc_pid_stat(5)`; `None` if the process is gone.
fn stat(path: impl AsRef<Path>) -> anyhow::Result<Option<Stat>> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(None);
    };
    // The name is in parentheses, and may hold blanks.
    let (_, rest) = text.rsplit_once(") ").context("stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number =
        |at: usize| -> anyhow::Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    Ok(Some(Stat {
        parent: fields.get(1).context("stat")?.parse()?,
        own: number(11)? + number(12)?,
        ended: number(13)? + number(14)?,
    }))
}

fn cpu_ms(pid: u32) -> anyhow::Result<f64> {
    let stat = stat(format!("/proc/{pid}/stat"))?.context("it has ended")?;
    Ok(milliseconds(stat.own))
}

/// A process and its children, those too that have ended.
fn with_children(pid: u32) -> anyhow::Result<f64> {
    let first = stat(format!("/proc/{pid}/stat"))?.context("it has ended")?;
    let mut ticks = first.own + first.ended;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path().join("stat");
        if let Some(child) = stat(path)?
            && child.parent == pid
        {
            ticks += child.own;
        }
    }
    Ok(milliseconds(ticks))
}

/// A clock tick is a hundredth of a second on every Linux that runs Berth (`sysconf(3)`, `_SC_CLK_TCK`).
fn milliseconds(ticks: f64) -> f64 {
    ticks * 10.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(resident_mib(pid).unwrap() > 1.0);
        let began = cpu_ms(pid).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while cpu_ms(pid).unwrap() <= began && Instant::now() < until {
            std::hint::black_box((0..100_000).sum::<u64>());
        }
        assert!(cpu_ms(pid).unwrap() > began);
        assert!(with_children(pid).unwrap() >= began);
    }
}
