//! What the scheduler promises, as Nova's users know it.

#![allow(clippy::unwrap_used)]

use crate::*;
use berth_rpc_types::{HostId, InstanceId};
use std::collections::BTreeSet;

mod filters;
mod properties;

/// A host with room: 8 CPUs, 16 GiB, 100 GiB.
fn host(number: u128) -> HostSnapshot {
    HostSnapshot {
        id: HostId::from_u128(number),
        hostname: format!("host{number}"),
        up: true,
        enabled: true,
        availability_zone: "nova".into(),
        vcpus: 8,
        vcpus_used: 0,
        memory_mib: 16384,
        memory_used_mib: 0,
        disk_gib: 100,
        disk_used_gib: 0,
        disk_available_least_gib: None,
        io_operations: 0,
        architecture: "x86_64".into(),
        hypervisor_type: "kvm".into(),
        physical_networks: BTreeSet::new(),
        instances: BTreeSet::new(),
    }
}

fn request() -> Request {
    Request {
        vcpus: 1,
        memory_mib: 512,
        disk_gib: 1,
        ..Request::default()
    }
}

fn instance(number: u128) -> InstanceId {
    InstanceId::from_u128(number)
}

/// Servers 1 and 2 on the first host, 3 on the second, none on the third.
fn populated() -> [HostSnapshot; 3] {
    [
        HostSnapshot {
            instances: [instance(1), instance(2)].into(),
            ..host(1)
        },
        HostSnapshot {
            instances: [instance(3)].into(),
            ..host(2)
        },
        host(3),
    ]
}

/// The numbers of the hosts that will do, best first.
fn chosen(request: &Request, hosts: &[HostSnapshot], policy: &Policy) -> Vec<u128> {
    let by_id = |id| hosts.iter().find(|host| host.id == id).unwrap();
    let number = |id| by_id(id).hostname["host".len()..].parse().unwrap();
    select(request, hosts, policy, 0)
        .hosts()
        .map(number)
        .collect()
}

/// The same, in order of number.
fn fit(request: &Request, hosts: &[HostSnapshot], policy: &Policy) -> Vec<u128> {
    let mut fit = chosen(request, hosts, policy);
    fit.sort_unstable();
    fit
}

#[test]
fn the_worked_vector_gives_novas_order_and_weights() {
    // Three weighers with multipliers 1, 1, 2 over six hosts. The normalised values are chosen
    // to give the sums 3.0 2.7 2.2 1.3 0.9 0.5; the raw ones put them on other scales.
    let policy = Policy {
        multipliers: Multipliers {
            ram: 1.0,
            disk: 1.0,
            io_ops: 2.0,
            ..Multipliers::default()
        },
        reserved_host_memory_mib: 0,
        ..Policy::default()
    };
    let tenths = [
        (1, 6, 3, 2),
        (2, 2, 10, 5),
        (3, 0, 5, 0),
        (4, 10, 1, 8),
        (5, 5, 0, 2),
        (6, 4, 6, 10),
    ];
    let hosts: Vec<HostSnapshot> = tenths
        .into_iter()
        .map(|(number, ram, disk, io_operations)| HostSnapshot {
            memory_mib: 2048 + 1024 * ram,
            disk_gib: 10 + 7 * disk,
            io_operations,
            ..host(number)
        })
        .collect();
    let selection = select(&request(), &hosts, &policy, 0);
    assert_eq!(chosen(&request(), &hosts, &policy), [6, 4, 2, 1, 5, 3]);
    let expected = [3.0, 2.7, 2.2, 1.3, 0.9, 0.5];
    for (ranked, expected) in selection.ranked.iter().zip(expected) {
        assert!(
            (ranked.weight - expected).abs() < 1e-9,
            "{} is not {expected}",
            ranked.weight
        );
    }
}

#[test]
fn server_groups_keep_their_policy_and_soft_ones_prefer_it() {
    let hosts = populated();
    let grouped = |policy, members: &[u128], max_server_per_host| Request {
        group: Some(ServerGroup {
            policy,
            members: members.iter().copied().map(instance).collect(),
            max_server_per_host,
        }),
        ..request()
    };
    let policy = Policy::default();
    let all = &[1, 2, 3];
    assert_eq!(
        fit(&grouped(GroupPolicy::Affinity, all, 1), &hosts, &policy),
        [1, 2]
    );
    assert_eq!(
        fit(&grouped(GroupPolicy::Affinity, &[], 1), &hosts, &policy),
        [1, 2, 3]
    );
    assert_eq!(
        fit(&grouped(GroupPolicy::AntiAffinity, all, 1), &hosts, &policy),
        [3]
    );
    assert_eq!(
        fit(&grouped(GroupPolicy::AntiAffinity, all, 2), &hosts, &policy),
        [2, 3]
    );
    assert_eq!(
        chosen(&grouped(GroupPolicy::SoftAffinity, all, 1), &hosts, &policy),
        [1, 2, 3]
    );
    assert_eq!(
        chosen(
            &grouped(GroupPolicy::SoftAntiAffinity, all, 1),
            &hosts,
            &policy
        ),
        [3, 2, 1]
    );
}

#[test]
fn idle_and_empty_hosts_are_preferred_and_negative_multipliers_stack() {
    let hosts = [
        HostSnapshot {
            memory_used_mib: 8192,
            ..host(1)
        },
        HostSnapshot {
            memory_used_mib: 1024,
            ..host(2)
        },
    ];
    let stack = Policy {
        multipliers: Multipliers {
            ram: -1.0,
            ..Multipliers::default()
        },
        ..Policy::default()
    };
    assert_eq!(chosen(&request(), &hosts, &Policy::default()), [2, 1]);
    assert_eq!(chosen(&request(), &hosts, &stack), [1, 2]);
    let busy = [
        HostSnapshot {
            io_operations: 5,
            ..host(1)
        },
        host(2),
    ];
    assert_eq!(chosen(&request(), &busy, &Policy::default()), [2, 1]);
}

#[test]
fn a_failure_tells_what_each_filter_removed_and_why() {
    let small = |number, used| HostSnapshot {
        memory_used_mib: used,
        ..host(number)
    };
    let hosts = [
        small(1, 13824),
        small(2, 14000),
        small(3, 15000),
        HostSnapshot {
            up: false,
            ..host(4)
        },
        HostSnapshot {
            enabled: false,
            ..host(5)
        },
    ];
    let wanted = Request {
        memory_mib: 8192,
        ..request()
    };
    let failure = select(&wanted, &hosts, &Policy::default(), 7)
        .failure()
        .unwrap();
    assert_eq!(
        failure.to_string(),
        "No valid host was found: 5 hosts considered; ComputeFilter removed 2 (1 down, 1 \
         disabled), RamFilter removed 3 (need 8192 MiB; the best has 2048)"
    );
    let nobody = select(&wanted, &[] as &[HostSnapshot], &Policy::default(), 7)
        .failure()
        .unwrap();
    assert_eq!(
        nobody.to_string(),
        "No valid host was found: no host has joined"
    );
    assert!(
        select(&request(), &[host(1)], &Policy::default(), 7)
            .failure()
            .is_none()
    );
}

#[test]
fn a_policy_that_means_nothing_is_refused_by_name() {
    assert_eq!(Policy::default().check(), Ok(()));
    let ratio = Policy {
        cpu_allocation_ratio: 0.0,
        ..Policy::default()
    };
    assert!(
        ratio
            .check()
            .unwrap_err()
            .to_string()
            .contains("cpu_allocation_ratio is 0")
    );
    let subset = Policy {
        host_subset_size: 0,
        ..Policy::default()
    };
    assert_eq!(subset.check(), Err(PolicyError::EmptySubset));
    let not_a_number = Multipliers {
        disk: f64::NAN,
        ..Multipliers::default()
    };
    let multiplier = Policy {
        multipliers: not_a_number,
        ..Policy::default()
    };
    assert!(
        multiplier
            .check()
            .unwrap_err()
            .to_string()
            .contains("disk multiplier")
    );
}

#[test]
fn equal_hosts_are_spread_by_the_draw() {
    let hosts: Vec<HostSnapshot> = (1..=8).map(host).collect();
    let first = |draw| {
        select(&request(), &hosts, &Policy::default(), draw)
            .first()
            .unwrap()
    };
    let firsts: BTreeSet<HostId> = (0..64).map(first).collect();
    assert!(
        firsts.len() >= 6,
        "64 draws gave {} of 8 hosts",
        firsts.len()
    );
}
