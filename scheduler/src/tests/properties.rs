//! What holds for any hosts, any request and any policy.

use super::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

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
