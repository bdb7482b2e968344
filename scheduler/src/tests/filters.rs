//! What each filter lets through, and what it does not.

use super::*;

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
    let hosts = populated();
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
