//! The table. Names are those of OpenStack's policies, as far as it has one.

use super::{Role, Rule, Who};

const fn roles(project: Option<Role>, domain: Option<Role>, system: Option<Role>) -> Who {
    Who::Roles {
        project,
        domain,
        system,
        oneself: false,
    }
}

/// Also of oneself, whatever the token is for.
const fn or_oneself(who: Who) -> Who {
    match who {
        Who::Roles {
            project,
            domain,
            system,
            ..
        } => Who::Roles {
            project,
            domain,
            system,
            oneself: true,
        },
        other => other,
    }
}

const READ: Option<Role> = Some(Role::Reader);
const MANAGE: Option<Role> = Some(Role::Manager);
const RULE: Option<Role> = Some(Role::Admin);

// Compute, network and image: what projects have.
const READER: Who = roles(READ, None, None);
const MEMBER: Who = roles(Some(Role::Member), None, None);
const ADMIN: Who = roles(RULE, None, None);

// Identity: what is the cloud's, and what is a domain's.
const CLOUD_READER: Who = roles(RULE, None, READ);
const CLOUD_ADMIN: Who = roles(RULE, None, RULE);
const DOMAIN_READER: Who = roles(RULE, READ, READ);
const DOMAIN_MANAGER: Who = roles(RULE, MANAGE, RULE);
const ROLE_READER: Who = roles(RULE, MANAGE, READ);
const ONESELF: Who = or_oneself(roles(None, None, None));

const fn rule(
    action: &'static str,
    who: Who,
    routes: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule {
        action,
        who,
        routes,
    }
}

/// All rows. A route that has none is nobody's.
#[rustfmt::skip]
pub const TABLE: &[Rule] = &[
    // Keystone.
    rule("identity:versions", Who::Anybody, &[("GET", "/identity"), ("GET", "/identity/v3")]),
    rule("identity:authenticate", Who::Anybody, &[("POST", "/identity/v3/auth/tokens")]),
    rule("identity:validate_token", or_oneself(CLOUD_READER), &[("GET", "/identity/v3/auth/tokens")]),
    rule("identity:revoke_token", or_oneself(CLOUD_ADMIN), &[("DELETE", "/identity/v3/auth/tokens")]),
    rule("identity:get_auth_catalog", Who::Token, &[("GET", "/identity/v3/auth/catalog")]),
    rule("identity:get_auth_projects", Who::Token, &[("GET", "/identity/v3/auth/projects")]),
    rule("identity:get_auth_domains", Who::Token, &[("GET", "/identity/v3/auth/domains")]),
    rule("identity:get_auth_system", Who::Token, &[("GET", "/identity/v3/auth/system")]),
    rule("identity:list_domains", DOMAIN_READER, &[("GET", "/identity/v3/domains")]),
    rule("identity:get_domain", or_oneself(DOMAIN_READER), &[("GET", "/identity/v3/domains/{id}")]),
    rule("identity:create_domain", CLOUD_ADMIN, &[("POST", "/identity/v3/domains")]),
    rule("identity:update_domain", CLOUD_ADMIN, &[("PATCH", "/identity/v3/domains/{id}")]),
    rule("identity:delete_domain", CLOUD_ADMIN, &[("DELETE", "/identity/v3/domains/{id}")]),
    rule("identity:list_projects", DOMAIN_READER, &[("GET", "/identity/v3/projects")]),
    rule("identity:get_project", or_oneself(DOMAIN_READER), &[("GET", "/identity/v3/projects/{id}")]),
    rule("identity:create_project", DOMAIN_MANAGER, &[("POST", "/identity/v3/projects")]),
    rule("identity:update_project", DOMAIN_MANAGER, &[("PATCH", "/identity/v3/projects/{id}")]),
    rule("identity:delete_project", DOMAIN_MANAGER, &[("DELETE", "/identity/v3/projects/{id}")]),
    rule("identity:list_users", DOMAIN_READER, &[("GET", "/identity/v3/users")]),
    rule("identity:get_user", or_oneself(DOMAIN_READER), &[("GET", "/identity/v3/users/{id}")]),
    rule("identity:create_user", DOMAIN_MANAGER, &[("POST", "/identity/v3/users")]),
    rule("identity:update_user", DOMAIN_MANAGER, &[("PATCH", "/identity/v3/users/{id}")]),
    rule("identity:delete_user", DOMAIN_MANAGER, &[("DELETE", "/identity/v3/users/{id}")]),
    rule("identity:change_password", ONESELF, &[("POST", "/identity/v3/users/{id}/password")]),
    rule("identity:list_user_projects", or_oneself(DOMAIN_READER), &[("GET", "/identity/v3/users/{id}/projects")]),
    rule("identity:list_roles", ROLE_READER, &[("GET", "/identity/v3/roles")]),
    rule("identity:get_role", ROLE_READER, &[("GET", "/identity/v3/roles/{id}")]),
    rule("identity:create_role", CLOUD_ADMIN, &[("POST", "/identity/v3/roles")]),
    rule("identity:update_role", CLOUD_ADMIN, &[("PATCH", "/identity/v3/roles/{id}")]),
    rule("identity:delete_role", CLOUD_ADMIN, &[("DELETE", "/identity/v3/roles/{id}")]),
    rule("identity:list_role_assignments", or_oneself(DOMAIN_READER), &[("GET", "/identity/v3/role_assignments")]),
    rule("identity:list_grants", DOMAIN_READER, &[
        ("GET", "/identity/v3/projects/{project}/users/{user}/roles"),
        ("GET", "/identity/v3/domains/{domain}/users/{user}/roles"),
    ]),
    rule("identity:check_grant", DOMAIN_READER, &[
        ("GET", "/identity/v3/projects/{project}/users/{user}/roles/{role}"),
        ("GET", "/identity/v3/domains/{domain}/users/{user}/roles/{role}"),
    ]),
    rule("identity:create_grant", DOMAIN_MANAGER, &[
        ("PUT", "/identity/v3/projects/{project}/users/{user}/roles/{role}"),
        ("PUT", "/identity/v3/domains/{domain}/users/{user}/roles/{role}"),
    ]),
    rule("identity:revoke_grant", DOMAIN_MANAGER, &[
        ("DELETE", "/identity/v3/projects/{project}/users/{user}/roles/{role}"),
        ("DELETE", "/identity/v3/domains/{domain}/users/{user}/roles/{role}"),
    ]),
    rule("identity:list_system_grants_for_user", CLOUD_READER, &[("GET", "/identity/v3/system/users/{user}/roles")]),
    rule("identity:check_system_grant_for_user", CLOUD_READER, &[("GET", "/identity/v3/system/users/{user}/roles/{role}")]),
    rule("identity:create_system_grant_for_user", CLOUD_ADMIN, &[("PUT", "/identity/v3/system/users/{user}/roles/{role}")]),
    rule("identity:revoke_system_grant_for_user", CLOUD_ADMIN, &[("DELETE", "/identity/v3/system/users/{user}/roles/{role}")]),
    rule("identity:list_services", CLOUD_READER, &[("GET", "/identity/v3/services")]),
    rule("identity:get_service", CLOUD_READER, &[("GET", "/identity/v3/services/{id}")]),
    rule("identity:list_endpoints", CLOUD_READER, &[("GET", "/identity/v3/endpoints")]),
    rule("identity:get_endpoint", CLOUD_READER, &[("GET", "/identity/v3/endpoints/{id}")]),
    rule("identity:list_regions", Who::Token, &[("GET", "/identity/v3/regions")]),
    rule("identity:get_region", Who::Token, &[("GET", "/identity/v3/regions/{id}")]),

    // Nova.
    rule("os_compute_api:versions", Who::Anybody, &[("GET", "/compute"), ("GET", "/compute/v2"), ("GET", "/compute/v2.1")]),
    rule("os_compute_api:servers:index", READER, &[("GET", "/compute/v2.1/servers")]),
    rule("os_compute_api:servers:detail", READER, &[("GET", "/compute/v2.1/servers/detail")]),
    rule("os_compute_api:servers:index:get_all_tenants", ADMIN, &[]),
    rule("os_compute_api:servers:allow_all_filters", ADMIN, &[]),
    rule("os_compute_api:servers:show", READER, &[("GET", "/compute/v2.1/servers/{id}")]),
    rule("os_compute_api:os-extended-server-attributes", ADMIN, &[]),
    rule("os_compute_api:servers:create", MEMBER, &[("POST", "/compute/v2.1/servers")]),
    rule("os_compute_api:servers:create:forced_host", ADMIN, &[]),
    rule("os_compute_api:servers:update", MEMBER, &[("PUT", "/compute/v2.1/servers/{id}")]),
    rule("os_compute_api:servers:delete", MEMBER, &[("DELETE", "/compute/v2.1/servers/{id}")]),
    // The route of what follows it, each of which is asked for by its own name.
    rule("os_compute_api:servers:action", READER, &[("POST", "/compute/v2.1/servers/{id}/action")]),
    rule("os_compute_api:servers:start", MEMBER, &[]),
    rule("os_compute_api:servers:stop", MEMBER, &[]),
    rule("os_compute_api:servers:reboot", MEMBER, &[]),
    rule("os_compute_api:os-pause-server:pause", MEMBER, &[]),
    rule("os_compute_api:os-pause-server:unpause", MEMBER, &[]),
    rule("os_compute_api:os-lock-server:lock", MEMBER, &[]),
    rule("os_compute_api:os-lock-server:unlock", MEMBER, &[]),
    rule("os_compute_api:os-lock-server:unlock:unlock_override", ADMIN, &[]),
    rule("os_compute_api:os-console-output", MEMBER, &[]),
    rule("os_compute_api:os-admin-actions:reset_state", ADMIN, &[]),
    rule("os_compute_api:ips:index", READER, &[("GET", "/compute/v2.1/servers/{id}/ips")]),
    rule("os_compute_api:ips:show", READER, &[("GET", "/compute/v2.1/servers/{id}/ips/{network}")]),
    rule("os_compute_api:server-metadata:index", READER, &[("GET", "/compute/v2.1/servers/{id}/metadata")]),
    rule("os_compute_api:server-metadata:show", READER, &[("GET", "/compute/v2.1/servers/{id}/metadata/{key}")]),
    rule("os_compute_api:server-metadata:create", MEMBER, &[("POST", "/compute/v2.1/servers/{id}/metadata")]),
    rule("os_compute_api:server-metadata:update_all", MEMBER, &[("PUT", "/compute/v2.1/servers/{id}/metadata")]),
    rule("os_compute_api:server-metadata:update", MEMBER, &[("PUT", "/compute/v2.1/servers/{id}/metadata/{key}")]),
    rule("os_compute_api:server-metadata:delete", MEMBER, &[("DELETE", "/compute/v2.1/servers/{id}/metadata/{key}")]),
    rule("os_compute_api:os-server-tags:index", READER, &[("GET", "/compute/v2.1/servers/{id}/tags")]),
    rule("os_compute_api:os-server-tags:show", READER, &[("GET", "/compute/v2.1/servers/{id}/tags/{tag}")]),
    rule("os_compute_api:os-server-tags:update", MEMBER, &[("PUT", "/compute/v2.1/servers/{id}/tags/{tag}")]),
    rule("os_compute_api:os-server-tags:update_all", MEMBER, &[("PUT", "/compute/v2.1/servers/{id}/tags")]),
    rule("os_compute_api:os-server-tags:delete", MEMBER, &[("DELETE", "/compute/v2.1/servers/{id}/tags/{tag}")]),
    rule("os_compute_api:os-server-tags:delete_all", MEMBER, &[("DELETE", "/compute/v2.1/servers/{id}/tags")]),
    rule("os_compute_api:os-attach-interfaces:list", READER, &[("GET", "/compute/v2.1/servers/{id}/os-interface")]),
    rule("os_compute_api:os-attach-interfaces:show", READER, &[("GET", "/compute/v2.1/servers/{id}/os-interface/{port}")]),
    rule("os_compute_api:os-volumes-attachments:index", READER, &[("GET", "/compute/v2.1/servers/{id}/os-volume_attachments")]),
    rule("os_compute_api:os-instance-actions:list", READER, &[("GET", "/compute/v2.1/servers/{id}/os-instance-actions")]),
    rule("os_compute_api:os-instance-actions:show", READER, &[("GET", "/compute/v2.1/servers/{id}/os-instance-actions/{request}")]),
    rule("os_compute_api:os-instance-actions:events:details", ADMIN, &[]),
    rule("os_compute_api:os-flavor-access", READER, &[("GET", "/compute/v2.1/flavors"), ("GET", "/compute/v2.1/flavors/detail"), ("GET", "/compute/v2.1/flavors/{id}")]),
    rule("os_compute_api:os-flavor-access:list_all", ADMIN, &[]),
    rule("os_compute_api:os-flavor-manage:create", ADMIN, &[("POST", "/compute/v2.1/flavors")]),
    rule("os_compute_api:os-flavor-manage:update", ADMIN, &[("PUT", "/compute/v2.1/flavors/{id}")]),
    rule("os_compute_api:os-flavor-manage:delete", ADMIN, &[("DELETE", "/compute/v2.1/flavors/{id}")]),
    rule("os_compute_api:os-flavor-extra-specs:index", READER, &[("GET", "/compute/v2.1/flavors/{id}/os-extra_specs")]),
    rule("os_compute_api:os-flavor-extra-specs:show", READER, &[("GET", "/compute/v2.1/flavors/{id}/os-extra_specs/{key}")]),
    rule("os_compute_api:os-flavor-extra-specs:create", ADMIN, &[("POST", "/compute/v2.1/flavors/{id}/os-extra_specs")]),
    rule("os_compute_api:os-flavor-extra-specs:update", ADMIN, &[("PUT", "/compute/v2.1/flavors/{id}/os-extra_specs/{key}")]),
    rule("os_compute_api:os-flavor-extra-specs:delete", ADMIN, &[("DELETE", "/compute/v2.1/flavors/{id}/os-extra_specs/{key}")]),
    rule("os_compute_api:os-flavor-access:list", ADMIN, &[("GET", "/compute/v2.1/flavors/{id}/os-flavor-access")]),
    rule("os_compute_api:os-flavor-access:action", ADMIN, &[("POST", "/compute/v2.1/flavors/{id}/action")]),
    // Key pairs are a user's, whatever role that has, as in Nova.
    rule("os_compute_api:os-keypairs:index", READER, &[("GET", "/compute/v2.1/os-keypairs")]),
    rule("os_compute_api:os-keypairs:show", READER, &[("GET", "/compute/v2.1/os-keypairs/{name}")]),
    rule("os_compute_api:os-keypairs:create", READER, &[("POST", "/compute/v2.1/os-keypairs")]),
    rule("os_compute_api:os-keypairs:delete", READER, &[("DELETE", "/compute/v2.1/os-keypairs/{name}")]),
    rule("os_compute_api:limits", READER, &[("GET", "/compute/v2.1/limits")]),
    rule("os_compute_api:os-quota-sets:show", READER, &[("GET", "/compute/v2.1/os-quota-sets/{project}")]),
    rule("os_compute_api:os-quota-sets:detail", READER, &[("GET", "/compute/v2.1/os-quota-sets/{project}/detail")]),
    rule("os_compute_api:os-quota-sets:defaults", READER, &[("GET", "/compute/v2.1/os-quota-sets/{project}/defaults")]),
    rule("os_compute_api:os-quota-sets:update", ADMIN, &[("PUT", "/compute/v2.1/os-quota-sets/{project}")]),
    rule("os_compute_api:os-quota-sets:delete", ADMIN, &[("DELETE", "/compute/v2.1/os-quota-sets/{project}")]),
    rule("os_compute_api:os-simple-tenant-usage:list", ADMIN, &[("GET", "/compute/v2.1/os-simple-tenant-usage")]),
    rule("os_compute_api:os-simple-tenant-usage:show", READER, &[("GET", "/compute/v2.1/os-simple-tenant-usage/{project}")]),
    rule("os_compute_api:os-server-groups:index", READER, &[("GET", "/compute/v2.1/os-server-groups")]),
    rule("os_compute_api:os-server-groups:index:all_projects", ADMIN, &[]),
    rule("os_compute_api:os-server-groups:show", READER, &[("GET", "/compute/v2.1/os-server-groups/{id}")]),
    rule("os_compute_api:os-server-groups:create", MEMBER, &[("POST", "/compute/v2.1/os-server-groups")]),
    rule("os_compute_api:os-server-groups:delete", MEMBER, &[("DELETE", "/compute/v2.1/os-server-groups/{id}")]),
    rule("os_compute_api:os-availability-zone:list", READER, &[("GET", "/compute/v2.1/os-availability-zone")]),
    rule("os_compute_api:os-availability-zone:detail", ADMIN, &[("GET", "/compute/v2.1/os-availability-zone/detail")]),
    rule("os_compute_api:os-services:list", ADMIN, &[("GET", "/compute/v2.1/os-services")]),
    rule("os_compute_api:os-services:update", ADMIN, &[("PUT", "/compute/v2.1/os-services/{id}")]),
    rule("os_compute_api:os-services:delete", ADMIN, &[("DELETE", "/compute/v2.1/os-services/{id}")]),
    rule("os_compute_api:os-hypervisors:list", ADMIN, &[("GET", "/compute/v2.1/os-hypervisors")]),
    rule("os_compute_api:os-hypervisors:list-detail", ADMIN, &[("GET", "/compute/v2.1/os-hypervisors/detail")]),
    rule("os_compute_api:os-hypervisors:statistics", ADMIN, &[("GET", "/compute/v2.1/os-hypervisors/statistics")]),
    rule("os_compute_api:os-hypervisors:show", ADMIN, &[("GET", "/compute/v2.1/os-hypervisors/{id}")]),
    rule("os_compute_api:os-aggregates:index", ADMIN, &[("GET", "/compute/v2.1/os-aggregates")]),
    rule("os_compute_api:extensions", READER, &[("GET", "/compute/v2.1/extensions"), ("GET", "/compute/v2.1/extensions/{alias}")]),
    rule("os_compute_api:os-security-groups:get", READER, &[("GET", "/compute/v2.1/os-security-groups")]),
    rule("os_compute_api:os-security-groups:show", READER, &[("GET", "/compute/v2.1/os-security-groups/{id}")]),
    rule("os_compute_api:os-security-groups:create", MEMBER, &[("POST", "/compute/v2.1/os-security-groups")]),
    rule("os_compute_api:os-security-groups:update", MEMBER, &[("PUT", "/compute/v2.1/os-security-groups/{id}")]),
    rule("os_compute_api:os-security-groups:delete", MEMBER, &[("DELETE", "/compute/v2.1/os-security-groups/{id}")]),
    rule("os_compute_api:os-security-groups:rule:create", MEMBER, &[("POST", "/compute/v2.1/os-security-group-rules")]),
    rule("os_compute_api:os-security-groups:rule:delete", MEMBER, &[("DELETE", "/compute/v2.1/os-security-group-rules/{id}")]),
    rule("os_compute_api:os-security-groups:list", READER, &[("GET", "/compute/v2.1/servers/{id}/os-security-groups")]),

    rule("placement:versions", Who::Anybody, &[("GET", "/placement")]),

    // Neutron.
    rule("network:versions", Who::Anybody, &[("GET", "/network"), ("GET", "/network/v2.0")]),
    rule("network:get_network", READER, &[("GET", "/network/v2.0/networks"), ("GET", "/network/v2.0/networks/{id}")]),
    rule("network:get_network:provider", ADMIN, &[]),
    rule("network:create_network", MEMBER, &[("POST", "/network/v2.0/networks")]),
    rule("network:create_network:shared", ADMIN, &[]),
    rule("network:create_network:router:external", ADMIN, &[]),
    rule("network:create_network:provider", ADMIN, &[]),
    rule("network:update_network", MEMBER, &[("PUT", "/network/v2.0/networks/{id}")]),
    rule("network:delete_network", MEMBER, &[("DELETE", "/network/v2.0/networks/{id}")]),
    rule("network:get_subnet", READER, &[("GET", "/network/v2.0/subnets"), ("GET", "/network/v2.0/subnets/{id}")]),
    rule("network:create_subnet", MEMBER, &[("POST", "/network/v2.0/subnets")]),
    rule("network:update_subnet", MEMBER, &[("PUT", "/network/v2.0/subnets/{id}")]),
    rule("network:delete_subnet", MEMBER, &[("DELETE", "/network/v2.0/subnets/{id}")]),
    rule("network:get_port", READER, &[("GET", "/network/v2.0/ports"), ("GET", "/network/v2.0/ports/{id}")]),
    rule("network:get_port:binding:host_id", ADMIN, &[]),
    rule("network:create_port", MEMBER, &[("POST", "/network/v2.0/ports")]),
    rule("network:create_port:binding:host_id", ADMIN, &[]),
    rule("network:update_port", MEMBER, &[("PUT", "/network/v2.0/ports/{id}")]),
    rule("network:delete_port", MEMBER, &[("DELETE", "/network/v2.0/ports/{id}")]),
    rule("network:get_security_group", READER, &[("GET", "/network/v2.0/security-groups"), ("GET", "/network/v2.0/security-groups/{id}")]),
    rule("network:create_security_group", MEMBER, &[("POST", "/network/v2.0/security-groups")]),
    rule("network:update_security_group", MEMBER, &[("PUT", "/network/v2.0/security-groups/{id}")]),
    rule("network:delete_security_group", MEMBER, &[("DELETE", "/network/v2.0/security-groups/{id}")]),
    rule("network:delete_security_group:default", ADMIN, &[]),
    rule("network:get_security_group_rule", READER, &[("GET", "/network/v2.0/security-group-rules"), ("GET", "/network/v2.0/security-group-rules/{id}")]),
    rule("network:create_security_group_rule", MEMBER, &[("POST", "/network/v2.0/security-group-rules")]),
    rule("network:delete_security_group_rule", MEMBER, &[("DELETE", "/network/v2.0/security-group-rules/{id}")]),
    rule("network:get_quota", READER, &[
        ("GET", "/network/v2.0/quotas/{project}"),
        ("GET", "/network/v2.0/quotas/{project}/default"),
        ("GET", "/network/v2.0/quotas/{project}/details"),
        ("GET", "/network/v2.0/quotas/{project}/details.json"),
    ]),
    rule("network:get_quotas", ADMIN, &[("GET", "/network/v2.0/quotas")]),
    rule("network:update_quota", ADMIN, &[("PUT", "/network/v2.0/quotas/{project}")]),
    rule("network:delete_quota", ADMIN, &[("DELETE", "/network/v2.0/quotas/{project}")]),
    rule("network:get_extension", READER, &[("GET", "/network/v2.0/extensions"), ("GET", "/network/v2.0/extensions/{alias}")]),
    rule("network:get_agents", READER, &[("GET", "/network/v2.0/agents")]),
    rule("network:get_agent", ADMIN, &[]),
    rule("network:get_availability_zone", READER, &[("GET", "/network/v2.0/availability_zones")]),

    // Glance.
    rule("image:versions", Who::Anybody, &[("GET", "/image"), ("GET", "/image/versions")]),
    rule("image:get_images", READER, &[("GET", "/image/v2/images")]),
    rule("image:get_image", READER, &[("GET", "/image/v2/images/{id}")]),
    rule("image:add_image", MEMBER, &[("POST", "/image/v2/images")]),
    rule("image:add_image:owner", ADMIN, &[]),
    rule("image:publicize_image", ADMIN, &[]),
    rule("image:modify_image", MEMBER, &[("PATCH", "/image/v2/images/{id}")]),
    rule("image:modify_image:owner", ADMIN, &[]),
    rule("image:delete_image", MEMBER, &[("DELETE", "/image/v2/images/{id}")]),
    rule("image:upload_image", MEMBER, &[("PUT", "/image/v2/images/{id}/file")]),
    rule("image:download_image", READER, &[("GET", "/image/v2/images/{id}/file")]),
    rule("image:download_image:deactivated", ADMIN, &[]),
    rule("image:add_tag", MEMBER, &[("PUT", "/image/v2/images/{id}/tags/{tag}")]),
    rule("image:remove_tag", MEMBER, &[("DELETE", "/image/v2/images/{id}/tags/{tag}")]),
    rule("image:deactivate", ADMIN, &[("POST", "/image/v2/images/{id}/actions/deactivate")]),
    rule("image:reactivate", ADMIN, &[("POST", "/image/v2/images/{id}/actions/reactivate")]),
    rule("image:get_members", READER, &[("GET", "/image/v2/images/{id}/members")]),
    rule("image:get_schema", READER, &[("GET", "/image/v2/schemas/{name}"), ("GET", "/image/v2/info/import")]),
];
