//! What is asked of the cloud: GETs and creates offered by a clock, and creates as fast as can be.

use super::api::Api;
use super::cost;
use super::seed::Furnished;
use anyhow::{Context as _, bail};
use berth_controller::core::params;
use berth_controller::core::store::Store;
use reqwest::Method;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Creates under way at once, when they are made as fast as can be.
const AT_ONCE: usize = 32;
/// How long all of them may take to become ACTIVE.
const PATIENCE: Duration = Duration::from_secs(600);
/// Servers whose ids are drawn from, for shows and markers.
const KNOWN: usize = 500;
const SERVERS: &str = "/compute/v2.1/servers";

/// What is offered.
pub struct Offered {
    /// GETs a second.
    pub gets: u32,
    /// Creates a second.
    pub creates: u32,
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
}

/// How the requests of a kind went.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Milliseconds of each that was answered, from when it was due.
    pub milliseconds: Vec<f64>,
    /// Those that were refused.
    pub refused: usize,
}

/// Of each kind.
pub type Latencies = BTreeMap<&'static str, Taken>;

/// The kinds of request, in the order in which they are told.
pub const KINDS: [&str; 5] = [SHOW, LIST, FILTERED, CREATE, COMMIT];
/// `GET /servers/{id}`
pub const SHOW: &str = "show";
/// `GET /servers/detail?limit=50`
pub const LIST: &str = "list of 50";
/// The same by status, behind a marker.
pub const FILTERED: &str = "list by filter and marker";
/// `POST /servers`
pub const CREATE: &str = "create accepted";
/// A transaction of one row, on the same database.
pub const COMMIT: &str = "commit";

/// Offers the load, and gives how long each request took.
///
/// # Errors
/// A cloud that does not answer at the beginning.
pub async fn offered(
    api: &Api,
    store: &Store,
    furnished: &Furnished,
    offered: &Offered,
) -> anyhow::Result<Latencies> {
    let api = api.of_project(furnished.asking()).await?;
    let known = known(&api).await?;
    let (sent, mut taken) = unbounded_channel();
    let mut all = JoinSet::new();
    let began = Instant::now();
    let stretch = offered.warm_up + offered.measured;
    let gets = Clock::new(began, stretch, offered.gets);
    let creates = Clock::new(began, stretch, offered.creates);
    let commits = Clock::new(began, stretch, offered.creates);
    {
        let (api, sent) = (api.clone(), sent.clone());
        all.spawn(gets.each(move |number, due| {
            let (kind, path) = get(&known, number);
            let (api, sent) = (api.clone(), sent.clone());
            async move {
                let asked = api.ask(Method::GET, &path, &Json::Null).await;
                tell(&sent, kind, due, asked.is_err())
            }
        }));
    }
    {
        let sent = sent.clone();
        let bodies = furnished.server("offered");
        all.spawn(creates.each(move |_, due| {
            let (api, sent, body) = (api.clone(), sent.clone(), bodies.clone());
            async move {
                let asked = api.ask(Method::POST, SERVERS, &body).await;
                tell(&sent, CREATE, due, asked.is_err())
            }
        }));
    }
    let store = store.clone();
    all.spawn(commits.each(move |number, due| {
        let (store, sent) = (store.clone(), sent.clone());
        async move {
            let done = cost::commit(&store, number).await;
            tell(&sent, COMMIT, due, done.is_err())
        }
    }));
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    let mut latencies = Latencies::new();
    while let Some(sample) = taken.recv().await {
        if sample.due.duration_since(began) >= offered.warm_up {
            let all = latencies.entry(sample.kind).or_default();
            match sample.is_refused {
                true => all.refused += 1,
                false => all.milliseconds.push(sample.took.as_secs_f64() * 1000.0),
            }
        }
    }
    Ok(latencies)
}

struct Sample {
    kind: &'static str,
    due: Instant,
    took: Duration,
    is_refused: bool,
}

fn tell(
    to: &UnboundedSender<Sample>,
    kind: &'static str,
    due: Instant,
    is_refused: bool,
) -> anyhow::Result<()> {
    let sample = Sample {
        kind,
        due,
        took: due.elapsed(),
        is_refused,
    };
    to.send(sample).context("the results")
}

/// Ticks at a rate, whatever becomes of what each tick began.
struct Clock {
    began: Instant,
    stretch: Duration,
    rate: u32,
}

impl Clock {
    fn new(began: Instant, stretch: Duration, rate: u32) -> Self {
        Self {
            began,
            stretch,
            rate,
        }
    }

    async fn each<F, T>(self, begin: F) -> anyhow::Result<()>
    where
        F: Fn(i64, Instant) -> T + Send,
        T: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut under_way = JoinSet::new();
        for number in 0_u32.. {
            let after = Duration::from_secs(1) * number / self.rate;
            if after >= self.stretch {
                break;
            }
            let due = self.began + after;
            tokio::time::sleep_until(due.into()).await;
            under_way.spawn(begin(i64::from(number), due));
            while let Some(ended) = under_way.try_join_next() {
                ended??;
            }
        }
        while let Some(ended) = under_way.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn known(api: &Api) -> anyhow::Result<Vec<String>> {
    let path = format!("/compute/v2.1/servers?limit={KNOWN}");
    let list = api.ask(Method::GET, &path, &Json::Null).await?;
    let servers = list["servers"].as_array().context("a list of servers")?;
    let ids = servers.iter().filter_map(|s| s["id"].as_str());
    let known: Vec<String> = ids.map(str::to_owned).collect();
    if known.is_empty() {
        bail!("the project has no servers");
    }
    Ok(known)
}

fn get(known: &[String], number: i64) -> (&'static str, String) {
    let turn = usize::try_from(number).unwrap_or(0);
    // Another one each time, in no order that a cache would like.
    let at = turn.wrapping_mul(7919) % known.len().max(1);
    let id = known.get(at).map_or("", String::as_str);
    match turn % 3 {
        0 => (SHOW, format!("/compute/v2.1/servers/{id}")),
        1 => (LIST, "/compute/v2.1/servers/detail?limit=50".into()),
        _ => (
            FILTERED,
            format!("/compute/v2.1/servers/detail?status=ACTIVE&limit=50&marker={id}"),
        ),
    }
}

/// Makes so many servers as fast as can be; gives how many became ACTIVE a second. A create that is
/// refused is tried again.
///
/// # Errors
/// Servers that do not become ACTIVE.
pub async fn burst(
    api: &Api,
    store: &Store,
    furnished: &Furnished,
    servers: u32,
) -> anyhow::Result<f64> {
    let api = api.of_project(furnished.asking()).await?;
    // What was offered before is over.
    settled(store, "offered", None).await?;
    let body = furnished.server("burst");
    let began = Instant::now();
    let mut under_way = JoinSet::new();
    for _ in 0..servers {
        if under_way.len() >= AT_ONCE
            && let Some(ended) = under_way.join_next().await
        {
            ended??;
        }
        let (api, body) = (api.clone(), body.clone());
        under_way.spawn(async move {
            let until = Instant::now() + PATIENCE;
            loop {
                match api.ask(Method::POST, SERVERS, &body).await {
                    Ok(_) => return Ok(()),
                    Err(error) if Instant::now() > until => return Err(error),
                    Err(_) => {}
                }
            }
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    settled(store, "burst", Some(servers)).await?;
    Ok(f64::from(servers) / began.elapsed().as_secs_f64())
}

/// Waits until no server of that name is being built; all of them are ACTIVE, if it is told how many.
async fn settled(store: &Store, name: &'static str, wanted: Option<u32>) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let sql = "SELECT COUNT(*) AS n FROM operations WHERE state = 'running'";
        let open: Option<(u32,)> = store.query_opt(sql, params![]).await?;
        if open == Some((0,)) {
            let Some(wanted) = wanted else { return Ok(()) };
            let sql = "SELECT COUNT(*) AS n FROM instances WHERE name = $1 \
                       AND vm_state = 'active' AND deleted_at IS NULL";
            let active: Option<(u32,)> = store.query_opt(sql, params![name]).await?;
            let active = active.map_or(0, |(n,)| n);
            if active != wanted {
                bail!("{active} of {wanted} servers are ACTIVE");
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("servers are still being built after {PATIENCE:?}")
}
