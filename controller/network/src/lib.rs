//! Networks (Neutron): networks, subnets, ports, addresses and security groups.
//!
//! - [`networks`], [`subnets`], [`ports`], [`security_groups`]: the resources and their rules.
//! - [`addresses`]: IPAM. An address is handed out by one INSERT under a primary key; no two
//!   ports ever hold the same one.
//! - [`quotas`]: how much a project may have.
//! - [`servers`]: what compute and the workflows ask: ports for a server, their binding to a
//!   VMM, and the one document a host gets (PROTOCOL.md, "The agent"), over [`agent`].
//! - [`api`]: REST in front of them.
//!
//! Security groups are stored and shown, not enforced; every port therefore says
//! `port_security_enabled: false`, and asking for `true` is refused (PROTOCOL.md, rule 12).

pub mod addresses;
pub mod agent;
pub mod api;
mod errors;
pub mod networks;
pub mod ports;
pub mod quotas;
pub mod security_groups;
pub mod servers;
pub mod subnets;

pub use servers::{
    RequestedNetwork, ServerAddress, addresses, allocate, bind, host_document, port_specs, release,
    set_active,
};

#[cfg(test)]
mod testing {
    //! An application that answers for identity and networks.

    pub use berth_controller_identity::testing::{App, Client, app_with};

    /// See [`app_with`].
    pub async fn app() -> App {
        app_with(|| axum::Router::new().nest("/network", crate::api::router())).await
    }
}
