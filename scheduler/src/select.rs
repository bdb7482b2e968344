//! From a request and the hosts to a ranking, or to a failure that explains itself.

use crate::filters::{FilterName, Surroundings};
use crate::{HostSnapshot, Policy, Request, weighers};
use berth_rpc_types::HostId;
use std::borrow::Borrow;
use std::fmt;

/// The outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Hosts that will do, best first; empty if there is none.
    pub ranked: Vec<Ranked>,
    /// What each filter removed, in filter order; filters that removed nothing are absent.
    pub removed: Vec<Removed>,
    /// Hosts that were looked at.
    pub considered: usize,
}

/// A host that will do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The host.
    pub host: HostId,
    /// Its sum of weights, for the log.
    pub weight: f64,
}

/// What one filter removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The filter.
    pub filter: FilterName,
    /// How many hosts.
    pub hosts: usize,
    /// Why, in words for a user.
    pub why: String,
}

impl Selection {
    /// The hosts, best first.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + '_ {
        self.ranked.iter().map(|ranked| ranked.host)
    }

    /// The first choice.
    pub fn first(&self) -> Option<HostId> {
        self.hosts().next()
    }

    /// The server's fault, if no host will do.
    pub fn failure(&self) -> Option<NoValidHost> {
        self.ranked.is_empty().then(|| NoValidHost {
            considered: self.considered,
            removed: self.removed.clone(),
        })
    }
}

impl fmt::Display for Selection {
    /// A line for the log: what is left, and what each filter removed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, considered) = (self.ranked.len(), self.considered);
        write!(f, "{left} of {considered} hosts will do")?;
        write_removed(f, &self.removed)
    }
}

/// No host will do, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NoValidHost {
    /// Hosts that were looked at.
    pub considered: usize,
    /// What each filter removed.
    pub removed: Vec<Removed>,
}

impl fmt::Display for NoValidHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("No valid host was found: ")?;
        match self.considered {
            0 => return f.write_str("no host has joined"),
            1 => f.write_str("1 host considered")?,
            more => write!(f, "{more} hosts considered")?,
        }
        write_removed(f, &self.removed)
    }
}

fn write_removed(f: &mut fmt::Formatter<'_>, removed: &[Removed]) -> fmt::Result {
    for (at, Removed { filter, hosts, why }) in removed.iter().enumerate() {
        let separator = if at == 0 { ";" } else { "," };
        write!(f, "{separator} {filter} removed {hosts} ({why})")?;
    }
    Ok(())
}

/// Filters and ranks. The same inputs give the same outcome, in whatever order the hosts come.
///
/// `draw` is a random number of the caller's. It decides among hosts of equal weight, and which
/// of the best `host_subset_size` is first, so that controllers side by side do not all choose
/// the same host.
pub fn select<H: Borrow<HostSnapshot>>(
    request: &Request,
    hosts: &[H],
    policy: &Policy,
    draw: u64,
) -> Selection {
    let mut candidates: Vec<&HostSnapshot> = hosts.iter().map(H::borrow).collect();
    let surroundings = Surroundings::new(request, policy, &candidates);
    let mut removed = Vec::new();
    for &filter in &policy.filters {
        let (passed, refused): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .partition(|host| surroundings.passes(filter, host));
        candidates = passed;
        if !refused.is_empty() {
            let why = surroundings.why(filter, &refused);
            removed.push(Removed {
                filter,
                hosts: refused.len(),
                why,
            });
        }
    }
    let ranked = rank(&surroundings, &candidates, draw);
    Selection {
        ranked,
        removed,
        considered: hosts.len(),
    }
}

fn rank(surroundings: &Surroundings<'_>, candidates: &[&HostSnapshot], draw: u64) -> Vec<Ranked> {
    let weights = weighers::weigh(surroundings, candidates);
    let hosts = candidates.iter().map(|host| host.id);
    let mut ranked: Vec<Ranked> = hosts
        .zip(weights)
        .map(|(host, weight)| Ranked { host, weight })
        .collect();
    ranked.sort_by(|a, b| {
        let order = b.weight.total_cmp(&a.weight);
        order.then_with(|| shuffled(a.host, draw).cmp(&shuffled(b.host, draw)))
    });
    let subset = surroundings.policy.host_subset_size.min(ranked.len());
    if subset > 1 {
        // Nova: the chosen one moves to the front, the others keep their order.
        let chosen = usize::try_from(draw % u64::try_from(subset).unwrap_or(1)).unwrap_or(0);
        ranked[..=chosen].rotate_right(1);
    }
    ranked
}

/// An order of hosts that differs with each draw; the id decides what the mixing does not.
/// (SplitMix64's finaliser: every bit of the draw moves every bit of the result.)
fn shuffled(host: HostId, draw: u64) -> (u64, HostId) {
    let (high, low) = host.0.as_u64_pair();
    let mut z = (high ^ low.rotate_left(32)).wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31), host)
}
