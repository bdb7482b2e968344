//! Weighers: what speaks for a host, made comparable and added up.
//!
//! Each weigher gives every candidate a raw number. Over the candidates it is normalised to
//! (raw - min) / (max - min), or 0 where all are equal, then multiplied and summed; the largest
//! sum wins (Nova's `weights.py`).

use crate::filters::Surroundings;
use crate::{GroupPolicy, HostSnapshot};

/// The sum for each candidate, in their order.
pub(crate) fn weigh(surroundings: &Surroundings<'_>, candidates: &[&HostSnapshot]) -> Vec<f64> {
    let policy = surroundings.policy;
    let by = policy.multipliers;
    let members = |host: &HostSnapshot, group| {
        let count = surroundings.members_on(host, group);
        u32::try_from(count).map_or(f64::MAX, f64::from)
    };
    let raw = |value: &dyn Fn(&HostSnapshot) -> f64| -> Vec<f64> {
        candidates.iter().map(|host| value(host)).collect()
    };
    sum(
        &[
            (by.ram, raw(&|host| host.free_memory_mib(policy))),
            (by.disk, raw(&|host| host.free_disk_gib(policy))),
            (by.io_ops, raw(&|host| f64::from(host.io_operations))),
            (
                by.soft_affinity,
                raw(&|host| members(host, GroupPolicy::SoftAffinity)),
            ),
            (
                by.soft_anti_affinity,
                raw(&|host| -members(host, GroupPolicy::SoftAntiAffinity)),
            ),
        ],
        candidates.len(),
    )
}

fn sum(weighers: &[(f64, Vec<f64>)], candidates: usize) -> Vec<f64> {
    let mut sums = vec![0.0; candidates];
    for (multiplier, raw) in weighers {
        for (sum, normal) in sums.iter_mut().zip(normalise(raw)) {
            *sum += multiplier * normal;
        }
    }
    sums
}

fn normalise(raw: &[f64]) -> Vec<f64> {
    let min = raw.iter().copied().fold(f64::INFINITY, f64::min);
    let max = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = max - min;
    let normal = |value: &f64| {
        if range > 0.0 {
            (value - min) / range
        } else {
            0.0
        }
    };
    raw.iter().map(normal).collect()
}
