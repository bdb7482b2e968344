//! What the scheduler promises, as Nova's users know it.

#![allow(clippy::unwrap_used)]

use crate::*;
use berth_rpc_types::{HostId, InstanceId};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::BTreeSet;

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
fn a_host_that_is_down_or_disabled_is_not_chosen() {
    let hosts = [
        HostSnapshot {
            up: false,
            ..host(1)
        },
        HostSnapshot {
            enabled: false,
            ..host(2)
        },
        host(3),
    ];
    assert_eq!(fit(&request(), &hosts, &Policy::default()), [3]);
}

#[test]
fn memory_fits_with_ratio_and_reserve_but_no_guest_over_commits_alone() {
    let hosts = [HostSnapshot {
        memory_used_mib: 12288,
        ..host(1)
    }];
    let asks = |memory_mib, ratio| {
        let policy = Policy {
            ram_allocation_ratio: ratio,
            ..Policy::default()
        };
        !fit(
            &Request {
                memory_mib,
                ..request()
            },
            &hosts,
            &policy,
        )
        .is_empty()
    };
    // 16384 - 512 reserved - 12288 claimed.
    assert!(asks(3584, 1.0));
    assert!(!asks(3585, 1.0));
    assert!(asks(3585, 1.5));
    assert!(asks(15872 / 2 + 3584, 1.5));
    assert!(!asks(15873, 16.0));
}

#[test]
fn vcpus_fit_with_ratio_but_no_guest_has_more_than_the_host() {
    let hosts = [HostSnapshot {
        vcpus_used: 28,
        ..host(1)
    }];
    let asks = |vcpus, ratio| {
        let policy = Policy {
            cpu_allocation_ratio: ratio,
            ..Policy::default()
        };
        !fit(&Request { vcpus, ..request() }, &hosts, &policy).is_empty()
    };
    assert!(asks(4, 4.0));
    assert!(!asks(5, 4.0));
    assert!(asks(8, 16.0));
    assert!(!asks(9, 16.0));
}

#[test]
fn disk_fits_by_claims_and_by_what_is_really_free() {
    let with = |used, least, reserved, ratio| {
        let least_known = HostSnapshot {
            disk_used_gib: used,
            disk_available_least_gib: least,
            ..host(1)
        };
        let policy = Policy {
            reserved_host_disk_gib: reserved,
            disk_allocation_ratio: ratio,
            ..Policy::default()
        };
        let fits = |disk_gib: &u64| {
            !fit(
                &Request {
                    disk_gib: *disk_gib,
                    ..request()
                },
                std::slice::from_ref(&least_known),
                &policy,
            )
            .is_empty()
        };
        (0..=300).rev().find(fits).unwrap()
    };
    assert_eq!(with(60, None, 0, 1.0), 40);
    assert_eq!(with(60, Some(70), 0, 1.0), 40);
    assert_eq!(with(60, Some(25), 0, 1.0), 25);
    assert_eq!(with(60, Some(25), 10, 1.0), 15);
    assert_eq!(with(60, Some(25), 0, 1.5), 75);
}

#[test]
fn a_zone_is_kept_to_and_a_forced_host_is_the_only_one() {
    let hosts = [
        host(1),
        HostSnapshot {
            availability_zone: "az2".into(),
            ..host(2)
        },
        HostSnapshot {
            availability_zone: "az2".into(),
            ..host(3)
        },
    ];
    let policy = Policy::default();
    let in_zone = |zone: &str, forced: Option<&str>| {
        let request = Request {
            availability_zone: Some(zone.into()),
            forced_host: forced.map(Into::into),
            ..request()
        };
        fit(&request, &hosts, &policy)
    };
    assert_eq!(in_zone("az2", None), [2, 3]);
    assert_eq!(in_zone("az2", Some("host3")), [3]);
    assert!(in_zone("nova", Some("host3")).is_empty());
    assert!(in_zone("mars", None).is_empty());
}

#[test]
fn a_forced_host_need_not_please_but_must_bear_it() {
    let hosts = [HostSnapshot {
        instances: [instance(1)].into(),
        ..host(1)
    }];
    let forced = Request {
        forced_host: Some("host1".into()),
        different_host: [instance(1)].into(),
        excluded_hosts: [hosts[0].id].into(),
        ..request()
    };
    assert_eq!(fit(&forced, &hosts, &Policy::default()), [1]);
    let too_large = Request {
        memory_mib: 1 << 20,
        ..forced
    };
    assert!(fit(&too_large, &hosts, &Policy::default()).is_empty());
}

#[test]
fn an_image_gets_the_machine_it_demands() {
    let hosts = [
        host(1),
        HostSnapshot {
            architecture: "aarch64".into(),
            ..host(2)
        },
    ];
    let policy = Policy::default();
    let demands = |image| fit(&Request { image, ..request() }, &hosts, &policy);
    let none = ImageProperties::default;
    assert_eq!(demands(none()), [1, 2]);
    assert_eq!(
        demands(ImageProperties {
            architecture: Some("amd64".into()),
            ..none()
        }),
        [1]
    );
    assert_eq!(
        demands(ImageProperties {
            architecture: Some("arm64".into()),
            ..none()
        }),
        [2]
    );
    assert_eq!(
        demands(ImageProperties {
            hypervisor_type: Some("KVM".into()),
            ..none()
        }),
        [1, 2]
    );
    assert!(
        demands(ImageProperties {
            hypervisor_type: Some("xen".into()),
            ..none()
        })
        .is_empty()
    );
    assert!(
        demands(ImageProperties {
            vm_mode: Some("xen".into()),
            ..none()
        })
        .is_empty()
    );
}

#[test]
fn ports_are_wired_where_their_physical_networks_are() {
    let hosts = [
        host(1),
        HostSnapshot {
            physical_networks: ["physnet1".into()].into(),
            ..host(2)
        },
    ];
    let wired = Request {
        physical_networks: ["physnet1".into()].into(),
        ..request()
    };
    assert_eq!(fit(&wired, &hosts, &Policy::default()), [2]);
}

#[test]
fn hosts_that_failed_are_not_tried_again() {
    let hosts = [host(1), host(2)];
    let retry = Request {
        excluded_hosts: [hosts[0].id].into(),
        ..request()
    };
    assert_eq!(fit(&retry, &hosts, &Policy::default()), [2]);
}

#[test]
fn hints_join_and_part_servers() {
    let hosts = [
        HostSnapshot {
            instances: [instance(1), instance(2)].into(),
            ..host(1)
        },
        HostSnapshot {
            instances: [instance(3)].into(),
            ..host(2)
        },
        host(3),
    ];
    let policy = Policy::default();
    let same = Request {
        same_host: [instance(1), instance(3)].into(),
        ..request()
    };
    assert_eq!(fit(&same, &hosts, &policy), [1, 2]);
    let different = Request {
        different_host: [instance(1), instance(3)].into(),
        ..request()
    };
    assert_eq!(fit(&different, &hosts, &policy), [3]);
}

#[test]
fn server_groups_keep_their_policy_and_soft_ones_prefer_it() {
    let hosts = [
        HostSnapshot {
            instances: [instance(1), instance(2)].into(),
            ..host(1)
        },
        HostSnapshot {
            instances: [instance(3)].into(),
            ..host(2)
        },
        host(3),
    ];
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
    let nobody = select(&wanted, &[], &Policy::default(), 7)
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

prop_compose! {
    fn any_host(number: u128)(
        (up, enabled) in (prop::bool::weighted(0.9), prop::bool::weighted(0.9)),
        zone in prop::sample::select(vec!["nova", "az2"]),
        vcpus in 1_u32..64, vcpus_used in 0_u32..128,
        memory_mib in 512_u64..65536, memory_used_mib in 0_u64..65536,
        disk_gib in 1_u64..500, disk_used_gib in 0_u64..500,
        least in prop::option::of(0_u64..500),
        io_operations in 0_u32..20,
        instances in btree_set(1_u128..12, 0..4),
    ) -> HostSnapshot {
        HostSnapshot {
            up, enabled,
            availability_zone: zone.into(),
            vcpus, vcpus_used, memory_mib, memory_used_mib, disk_gib, disk_used_gib,
            disk_available_least_gib: least,
            io_operations,
            instances: instances.into_iter().map(InstanceId::from_u128).collect(),
            ..host(number)
        }
    }
}

fn any_hosts() -> impl Strategy<Value = Vec<HostSnapshot>> {
    (0_u128..12).prop_flat_map(|count| (1..=count).map(any_host).collect::<Vec<_>>())
}

prop_compose! {
    /// Any request but one of an affinity group: there, another host with a member changes what
    /// all hosts are measured by.
    fn any_request()(
        vcpus in 0_u32..16, memory_mib in 0_u64..16384, disk_gib in 0_u64..100,
        zone in prop::option::of(prop::sample::select(vec!["nova", "az2"])),
        excluded in vec(1_u128..12, 0..3),
        same in btree_set(1_u128..12, 0..2),
        different in btree_set(1_u128..12, 0..2),
        group in prop::option::of((
            prop::sample::select(vec![GroupPolicy::AntiAffinity, GroupPolicy::SoftAffinity]),
            btree_set(1_u128..12, 0..4),
        )),
    ) -> Request {
        let ids = |set: BTreeSet<u128>| set.into_iter().map(InstanceId::from_u128).collect();
        Request {
            vcpus, memory_mib, disk_gib,
            availability_zone: zone.map(Into::into),
            excluded_hosts: excluded.into_iter().map(HostId::from_u128).collect(),
            same_host: ids(same),
            different_host: ids(different),
            group: group.map(|(policy, members)| ServerGroup {
                policy,
                members: ids(members),
                max_server_per_host: 1,
            }),
            ..Request::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_host_is_ever_over_committed_or_against_the_request(
        request in any_request(), hosts in any_hosts(), draw: u64, subset in 1_usize..5,
    ) {
        let policy = Policy { host_subset_size: subset, ..Policy::default() };
        for id in select(&request, &hosts, &policy, draw).hosts() {
            let host = hosts.iter().find(|host| host.id == id).unwrap();
            prop_assert!(host.up && host.enabled);
            prop_assert!(host.memory_used_mib + request.memory_mib + 512 <= host.memory_mib || request.memory_mib == 0);
            prop_assert!(host.vcpus_used + request.vcpus <= 4 * host.vcpus);
            prop_assert!(request.vcpus <= host.vcpus);
            prop_assert!(host.disk_used_gib + request.disk_gib <= host.disk_gib || request.disk_gib == 0);
            prop_assert!(host.disk_available_least_gib.is_none_or(|least| request.disk_gib <= least));
            prop_assert!(!request.excluded_hosts.contains(&id));
            prop_assert!(host.instances.is_disjoint(&request.different_host));
            if let Some(zone) = &request.availability_zone {
                prop_assert_eq!(zone, &host.availability_zone);
            }
        }
    }

    #[test]
    fn every_host_is_ranked_or_accounted_for(
        request in any_request(), hosts in any_hosts(), draw: u64,
    ) {
        let selection = select(&request, &hosts, &Policy::default(), draw);
        let removed: usize = selection.removed.iter().map(|removed| removed.hosts).sum();
        prop_assert_eq!(selection.ranked.len() + removed, hosts.len());
        let different: BTreeSet<HostId> = selection.hosts().collect();
        prop_assert_eq!(different.len(), selection.ranked.len());
    }

    #[test]
    fn another_host_takes_no_host_away(
        request in any_request(), hosts in any_hosts(), another in any_host(99), draw: u64,
    ) {
        let before: BTreeSet<HostId> = select(&request, &hosts, &Policy::default(), draw).hosts().collect();
        let mut more = hosts;
        more.push(another);
        let after: BTreeSet<HostId> = select(&request, &more, &Policy::default(), draw).hosts().collect();
        prop_assert!(before.is_subset(&after));
    }

    #[test]
    fn the_order_of_snapshots_changes_nothing(
        request in any_request(), hosts in any_hosts(), draw: u64, subset in 1_usize..5,
    ) {
        let policy = Policy { host_subset_size: subset, ..Policy::default() };
        let mut turned = hosts.clone();
        turned.reverse();
        prop_assert_eq!(
            select(&request, &hosts, &policy, draw),
            select(&request, &turned, &policy, draw)
        );
    }

    #[test]
    fn the_first_is_one_of_the_best_by_weight(
        request in any_request(), hosts in any_hosts(), draw: u64, subset in 1_usize..5,
    ) {
        let policy = Policy { host_subset_size: subset, ..Policy::default() };
        let selection = select(&request, &hosts, &policy, draw);
        let mut weights: Vec<f64> = selection.ranked.iter().map(|ranked| ranked.weight).collect();
        if let Some(first) = weights.first().copied() {
            weights.sort_by(|a, b| b.total_cmp(a));
            prop_assert!(first >= weights[(subset - 1).min(weights.len() - 1)]);
        }
    }
}
