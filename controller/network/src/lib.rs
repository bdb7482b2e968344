//! Networks (Neutron): networks, subnets, ports, addresses and security groups.
//!
//! - [`networks`], [`subnets`], [`ports`], [`security_groups`]: the resources and their rules.
//! - [`addresses`]: IPAM. An address is handed out by one INSERT under a primary key; no two
//!   ports ever hold the same one.
//! - [`quotas`]: how much a project may have.
//! - [`servers`]: a server's ports; [`bindings`]: for which VMMs they are bound on which hosts;
//!   [`strays`]: those of guests that no server has;
//!   [`documents`]: what a VMM and, over [`agent`], a host is told of them.
//! - [`api`]: REST in front of them.
//!
//! Security groups are stored and shown, not enforced; every port therefore says
//! `port_security_enabled: false`, and asking for `true` is refused (PROTOCOL.md, rule 12).

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod addresses;
pub mod agent;
pub mod api;
pub mod bindings;
pub mod documents;
mod errors;
pub mod networks;
pub mod ports;
pub mod quotas;
pub mod security_groups;
pub mod servers;
pub mod strays;
pub mod subnets;
pub(crate) mod tags;

pub use bindings::{activate, bind, unbind};
pub use documents::{host_document, port_specs};
pub use servers::{RequestedNetwork, ServerAddress, addresses, allocate, release, set_active};

#[cfg(test)]
mod testing {
    //! An application that answers for identity and networks.

    pub use berth_controller_identity::testing::{App, Client, app_with};

    /// See [`app_with`].
    pub async fn app() -> App {
        app_with(|| axum::Router::new().nest("/network", crate::api::router())).await
    }
}
