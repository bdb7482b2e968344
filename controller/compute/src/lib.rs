//! Compute (Nova): servers and what belongs to them, placement, and what is done to them.
//!
//! - [`states`]: the table of actions and states.
//! - [`instances`]: a server's row and its JSON parts.
//! - [`listing`]: which servers a list shows, and in which order.
//! - [`actions`]: what `os-instance-actions` remembers.
//! - [`flavors`], [`keypairs`], [`quotas`], [`groups`]: what servers are made from and held to.
//! - [`placement`]: which host, and the claim on it.
//! - [`workflow`]: the kinds of operation on instances, for the engine.
//! - [`observer`]: what hosts see of guests; [`reconcile`]: what is kept true of them.
//! - [`api`]: REST in front of them.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod actions;
pub mod api;
pub mod boot_sources;
pub mod flavors;
pub mod groups;
pub mod instances;
pub mod keypairs;
pub mod listing;
pub mod observer;
pub mod placement;
pub mod quotas;
pub mod reconcile;
pub mod states;
pub mod strays;
pub mod workflow;

pub use observer::Instances;
pub use workflow::InstanceKinds;

#[cfg(test)]
mod testing {
    //! An application that answers for every service.

    use axum::Router;
    pub use berth_controller_identity::testing::{Answer, App, Client, app_with};

    /// See [`app_with`].
    pub async fn app() -> App {
        let services = || {
            Router::new()
                .nest("/image", berth_controller_image::api::router())
                .nest("/network", berth_controller_network::api::router())
                .nest("/compute", crate::api::router())
                .nest("/placement", crate::api::placement::router())
        };
        app_with(services).await
    }
}
