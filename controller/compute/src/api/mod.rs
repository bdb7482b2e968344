//! Nova: the compute API, microversions 2.1 to 2.96.
//!
//! Handlers check a request as Nova's schemas do, run one transaction, and render rows by tables
//! of fields. They wait for no agent (a console's text excepted).
//!
//! Reading order:
//! - [`microversion`]: which one is asked for. [`render`]: a resource as one shows it.
//! - [`common`]: who calls, errors, checks of input.
//! - [`create`] (with [`create_request`]), [`servers`], [`server_view`], [`server_actions`], [`server_parts`]: servers.
//! - [`flavors`], [`keypairs`] (with [`generate`]), [`groups`], [`quota_sets`].
//! - [`hosts`], seen as [`services`] and as [`hypervisors`].
//! - [`networking`], [`imaging`], [`security_groups`]: what Nova asks of its neighbours.
//! - Discovery: [`versions`].

mod common;
mod create;
mod create_request;
mod flavors;
mod generate;
mod groups;
mod hosts;
mod hypervisors;
mod imaging;
mod keypairs;
mod microversion;
mod networking;
pub mod placement;
mod quota_sets;
mod render;
mod security_groups;
mod server_actions;
mod server_parts;
mod server_view;
mod servers;
mod services;
#[cfg(test)]
mod tests;
mod versions;

use axum::routing::{get, post, put};
use axum::{Extension, Router, middleware};
use berth_controller_core::AppState;

/// All routes of Nova, below `/compute`.
///
/// `/v2` is the same without microversions: it is always 2.1, as in Nova.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/", get(versions::all))
        .route("/v2.1", get(versions::v2_1))
        .route("/v2", get(versions::v2))
        .nest(
            "/v2.1",
            resources().layer(middleware::from_fn(microversion::layer)),
        )
        .nest(
            "/v2",
            resources().layer(Extension(microversion::Microversion(microversion::MIN))),
        )
}

fn resources() -> Router<AppState> {
    servers_routes()
        .route("/flavors", get(flavors::index).post(flavors::create))
        .route("/flavors/detail", get(flavors::detail))
        .route(
            "/flavors/{id}",
            get(flavors::show)
                .put(flavors::update)
                .delete(flavors::delete),
        )
        .route(
            "/flavors/{id}/os-extra_specs",
            get(flavors::specs).post(flavors::specs_merge),
        )
        .route(
            "/flavors/{id}/os-extra_specs/{key}",
            get(flavors::spec)
                .put(flavors::spec_set)
                .delete(flavors::spec_delete),
        )
        .route("/flavors/{id}/os-flavor-access", get(flavors::access))
        .route("/flavors/{id}/action", post(flavors::action))
        .route("/os-keypairs", get(keypairs::index).post(keypairs::create))
        .route(
            "/os-keypairs/{name}",
            get(keypairs::show).delete(keypairs::delete),
        )
        .route("/limits", get(quota_sets::limits))
        .route(
            "/os-quota-sets/{project}",
            get(quota_sets::show)
                .put(quota_sets::update)
                .delete(quota_sets::delete),
        )
        .route(
            "/os-quota-sets/{project}/defaults",
            get(quota_sets::defaults),
        )
        .route("/os-quota-sets/{project}/detail", get(quota_sets::detail))
        .route("/os-simple-tenant-usage", get(quota_sets::usages))
        .route("/os-simple-tenant-usage/{project}", get(quota_sets::usage))
        .route("/os-server-groups", get(groups::index).post(groups::create))
        .route(
            "/os-server-groups/{id}",
            get(groups::show).delete(groups::delete),
        )
        .route("/os-availability-zone", get(hosts::zones))
        .route("/os-availability-zone/detail", get(hosts::zones_detail))
        .route("/os-services", get(services::services))
        .route(
            "/os-services/{id}",
            put(services::service_update).delete(services::service_delete),
        )
        .route("/os-hypervisors", get(hypervisors::hypervisors))
        .route(
            "/os-hypervisors/detail",
            get(hypervisors::hypervisors_detail),
        )
        .route("/os-hypervisors/statistics", get(hypervisors::statistics))
        .route("/os-hypervisors/{id}", get(hypervisors::hypervisor_show))
        .route("/os-hypervisors/{id}/uptime", get(hypervisors::uptime))
        .route(
            "/os-aggregates",
            get(hosts::aggregates).post(hosts::no_aggregates),
        )
        .route("/extensions", get(hosts::extensions))
        .route("/extensions/{alias}", get(hosts::extension))
        .merge(security_groups::routes())
}

fn servers_routes() -> Router<AppState> {
    Router::new()
        .route("/servers", get(servers::index).post(create::create))
        .route("/servers/detail", get(servers::detail))
        .route(
            "/servers/{id}",
            get(servers::show)
                .put(servers::update)
                .delete(servers::delete),
        )
        .route("/servers/{id}/action", post(server_actions::action))
        .route("/servers/{id}/ips", get(server_parts::ips))
        .route("/servers/{id}/ips/{network}", get(server_parts::ips_of))
        .route(
            "/servers/{id}/metadata",
            get(server_parts::metadata_index)
                .put(server_parts::metadata_replace)
                .post(server_parts::metadata_merge),
        )
        .route(
            "/servers/{id}/metadata/{key}",
            get(server_parts::metadata_show)
                .put(server_parts::metadata_set)
                .delete(server_parts::metadata_delete),
        )
        .route(
            "/servers/{id}/tags",
            get(server_parts::tags_index)
                .put(server_parts::tags_replace)
                .delete(server_parts::tags_clear),
        )
        .route(
            "/servers/{id}/tags/{tag}",
            get(server_parts::tag_show)
                .put(server_parts::tag_add)
                .delete(server_parts::tag_remove),
        )
        .route(
            "/servers/{id}/os-interface",
            get(server_parts::interfaces).post(server_parts::no_interface),
        )
        .route(
            "/servers/{id}/os-interface/{port}",
            get(server_parts::interface).delete(server_parts::keeps_interface),
        )
        .route(
            "/servers/{id}/os-volume_attachments",
            get(server_parts::volumes).post(server_parts::no_volume),
        )
        .route(
            "/servers/{id}/os-instance-actions",
            get(server_parts::actions_index),
        )
        .route(
            "/servers/{id}/os-instance-actions/{request}",
            get(server_parts::action_show),
        )
}
