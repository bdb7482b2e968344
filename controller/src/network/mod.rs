//! Networks, subnets, ports, addresses and security groups, below the API.
//!
//! - [`networks`], [`subnets`], [`ports`], [`security_groups`]: the resources and their rules.
//! - [`addresses`]: IPAM. An address is handed out by one INSERT under a primary key; no two
//!   ports ever hold the same one.
//! - [`quotas`]: how much a project may have.
//! - [`servers`]: what compute and the workflows ask: ports for a server, their binding to a
//!   VMM, and the one document a host gets (PROTOCOL.md, "The agent").
//!
//! Security groups are stored and shown, not enforced; every port therefore says
//! `port_security_enabled: false`, and asking for `true` is refused (PROTOCOL.md, rule 12).

pub mod addresses;
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
