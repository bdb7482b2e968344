//! Filters: each says no to a host, or has nothing against it.
//!
//! A filter sees one host and what is true of the whole cloud ([`Surroundings`]), never what
//! another filter said. Each can tell in words why it removed what it removed.

use crate::host::float;
use crate::{GroupPolicy, HostSnapshot, Policy, Request};
use berth_rpc_types::HostId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The filters, by Nova's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FilterName {
    /// Not a host that this request failed on.
    RetryFilter,
    /// In the zone asked for; the host asked for, if one is forced.
    AvailabilityZoneFilter,
    /// Up and enabled.
    ComputeFilter,
    /// Memory, with ratio and reserve; and the host's memory holds the guest by itself.
    RamFilter,
    /// vCPUs, with ratio; and the host has as many CPUs as the guest.
    CoreFilter,
    /// Disk, with ratio and reserve, against claims and what is measured to be free.
    DiskFilter,
    /// Architecture, hypervisor type and VM mode that the image demands.
    ImagePropertiesFilter,
    /// Wired to the physical networks of the server's ports.
    PhysicalNetworkFilter,
    /// Hint `same_host`.
    SameHostFilter,
    /// Hint `different_host`.
    DifferentHostFilter,
    /// Server groups with policy `anti-affinity`.
    ServerGroupAntiAffinityFilter,
    /// Server groups with policy `affinity`.
    ServerGroupAffinityFilter,
}

impl FilterName {
    /// All, in the default order: cheap and strict first.
    pub const ALL: &'static [Self] = &[
        Self::RetryFilter,
        Self::AvailabilityZoneFilter,
        Self::ComputeFilter,
        Self::RamFilter,
        Self::CoreFilter,
        Self::DiskFilter,
        Self::ImagePropertiesFilter,
        Self::PhysicalNetworkFilter,
        Self::SameHostFilter,
        Self::DifferentHostFilter,
        Self::ServerGroupAntiAffinityFilter,
        Self::ServerGroupAffinityFilter,
    ];

    /// Whether it looks at what a host can bear, and so holds for a forced host too.
    const fn holds_when_forced(self) -> bool {
        matches!(
            self,
            Self::AvailabilityZoneFilter
                | Self::ComputeFilter
                | Self::RamFilter
                | Self::CoreFilter
                | Self::DiskFilter
                | Self::PhysicalNetworkFilter
        )
    }
}

impl fmt::Display for FilterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants' names are Nova's.
        fmt::Debug::fmt(self, f)
    }
}

/// What a filter must know beside the host.
pub(crate) struct Surroundings<'a> {
    pub(crate) request: &'a Request,
    pub(crate) policy: &'a Policy,
    /// Hosts that have a member of the request's group.
    group_hosts: BTreeSet<HostId>,
}

impl<'a> Surroundings<'a> {
    pub(crate) fn new(request: &'a Request, policy: &'a Policy, hosts: &[&HostSnapshot]) -> Self {
        let group_hosts = match &request.group {
            None => BTreeSet::new(),
            Some(group) => {
                let has_member =
                    |host: &&&HostSnapshot| !host.instances.is_disjoint(&group.members);
                hosts
                    .iter()
                    .filter(has_member)
                    .map(|host| host.id)
                    .collect()
            }
        };
        Self {
            request,
            policy,
            group_hosts,
        }
    }

    /// Whether `filter` has nothing against `host`.
    pub(crate) fn passes(&self, filter: FilterName, host: &HostSnapshot) -> bool {
        let Self {
            request, policy, ..
        } = self;
        if request.forced_host.is_some() && !filter.holds_when_forced() {
            return true;
        }
        match filter {
            FilterName::RetryFilter => !request.excluded_hosts.contains(&host.id),
            FilterName::AvailabilityZoneFilter => self.in_zone(host),
            FilterName::ComputeFilter => host.up && host.enabled,
            // A guest may over-commit a host against other guests, never against itself.
            FilterName::RamFilter => {
                let wanted = float(request.memory_mib);
                wanted <= host.guest_memory_mib(policy) && wanted <= host.usable_memory_mib(policy)
            }
            FilterName::CoreFilter => {
                request.vcpus <= host.vcpus && f64::from(request.vcpus) <= host.usable_vcpus(policy)
            }
            FilterName::DiskFilter => float(request.disk_gib) <= host.usable_disk_gib(policy),
            FilterName::ImagePropertiesFilter => self.suits_image(host),
            FilterName::PhysicalNetworkFilter => {
                request.physical_networks.is_subset(&host.physical_networks)
            }
            FilterName::SameHostFilter => {
                request.same_host.is_empty() || !request.same_host.is_disjoint(&host.instances)
            }
            FilterName::DifferentHostFilter => request.different_host.is_disjoint(&host.instances),
            FilterName::ServerGroupAntiAffinityFilter => {
                self.members_on(host, GroupPolicy::AntiAffinity) < self.members_allowed()
            }
            FilterName::ServerGroupAffinityFilter => {
                !self.group_is(GroupPolicy::Affinity)
                    || self.group_hosts.is_empty()
                    || self.group_hosts.contains(&host.id)
            }
        }
    }

    /// Why `filter` removed these hosts, in words for a user.
    pub(crate) fn why(&self, filter: FilterName, removed: &[&HostSnapshot]) -> String {
        let Self {
            request, policy, ..
        } = self;
        let best = |usable: &dyn Fn(&HostSnapshot) -> f64| {
            let best = removed.iter().map(|host| usable(host)).fold(0.0, f64::max);
            best.floor()
        };
        match filter {
            FilterName::RetryFilter => "tried for this request before, without success".into(),
            FilterName::AvailabilityZoneFilter => {
                match (&request.forced_host, &request.availability_zone) {
                    (Some(host), Some(zone)) => format!("not the host {host} in zone {zone}"),
                    (Some(host), None) => format!("not the host {host}"),
                    (None, zone) => format!("not in zone {}", zone.as_deref().unwrap_or_default()),
                }
            }
            FilterName::ComputeFilter => {
                let down = removed.iter().filter(|host| !host.up).count();
                format!("{down} down, {} disabled", removed.len() - down)
            }
            FilterName::RamFilter => {
                let usable = best(&|h| h.usable_memory_mib(policy).min(h.guest_memory_mib(policy)));
                format!("need {} MiB; the best has {usable}", request.memory_mib)
            }
            FilterName::CoreFilter => {
                let usable = best(&|h| h.usable_vcpus(policy).min(f64::from(h.vcpus)));
                format!("need {} vCPUs; the best has {usable}", request.vcpus)
            }
            FilterName::DiskFilter => {
                let usable = best(&|h| h.usable_disk_gib(policy));
                format!("need {} GiB; the best has {usable}", request.disk_gib)
            }
            FilterName::ImagePropertiesFilter => {
                let image = &request.image;
                let demands: Vec<String> = [
                    ("hw_architecture", &image.architecture),
                    ("img_hv_type", &image.hypervisor_type),
                    ("hw_vm_mode", &image.vm_mode),
                ]
                .into_iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
                .collect();
                format!("the image demands {}", demands.join(" "))
            }
            FilterName::PhysicalNetworkFilter => {
                let wanted: Vec<&str> = request
                    .physical_networks
                    .iter()
                    .map(String::as_str)
                    .collect();
                format!("not wired to {}", wanted.join(", "))
            }
            FilterName::SameHostFilter => "without any of the same_host servers".into(),
            FilterName::DifferentHostFilter => "with one of the different_host servers".into(),
            FilterName::ServerGroupAntiAffinityFilter => {
                format!(
                    "the server group allows {} member on a host",
                    self.members_allowed()
                )
            }
            FilterName::ServerGroupAffinityFilter => "the server group is on another host".into(),
        }
    }

    /// Nova's weighers count members under the soft policies by this too.
    pub(crate) fn members_on(&self, host: &HostSnapshot, policy: GroupPolicy) -> usize {
        match &self.request.group {
            Some(group) if group.policy == policy => {
                host.instances.intersection(&group.members).count()
            }
            _ => 0,
        }
    }

    fn members_allowed(&self) -> usize {
        let group = self.request.group.as_ref();
        let allowed = group.map_or(1, |group| group.max_server_per_host.max(1));
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    fn group_is(&self, policy: GroupPolicy) -> bool {
        self.request
            .group
            .as_ref()
            .is_some_and(|group| group.policy == policy)
    }

    fn in_zone(&self, host: &HostSnapshot) -> bool {
        let Request {
            availability_zone,
            forced_host,
            ..
        } = self.request;
        let zone = availability_zone
            .as_ref()
            .is_none_or(|zone| *zone == host.availability_zone);
        zone && forced_host
            .as_ref()
            .is_none_or(|forced| *forced == host.hostname)
    }

    fn suits_image(&self, host: &HostSnapshot) -> bool {
        let image = &self.request.image;
        let architecture = image.architecture.as_ref();
        let hypervisor = image.hypervisor_type.as_ref();
        architecture.is_none_or(|a| canonical(a) == canonical(&host.architecture))
            && hypervisor.is_none_or(|h| h.eq_ignore_ascii_case(&host.hypervisor_type))
            && image
                .vm_mode
                .as_ref()
                .is_none_or(|mode| mode.eq_ignore_ascii_case("hvm"))
    }
}

/// One name for an architecture's many (Nova's `fields.Architecture.canonicalize`).
fn canonical(architecture: &str) -> String {
    let lower = architecture.to_ascii_lowercase();
    match lower.as_str() {
        "amd64" | "x64" => "x86_64".into(),
        "arm64" => "aarch64".into(),
        _ => lower,
    }
}
