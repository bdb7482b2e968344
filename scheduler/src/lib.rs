//! Where a server should run: (request, host snapshots) -> ranked hosts, and why the others not.
//!
//! Pure functions: no I/O, no clock, no randomness of its own, no async. [`select`] takes what
//! is wanted ([`Request`]), what there is ([`HostSnapshot`]) and the operator's [`Policy`], and
//! gives a [`Selection`]. Filters remove hosts, in the policy's order, and each tells how many
//! and why; weighers rank what is left. Names and semantics are Nova's.
//!
//! It claims nothing. The caller claims on the first ranked host in one statement, guarded by
//! the host's inventory generation (PROTOCOL.md, rule 11); if that raced, it takes the next, or
//! asks again with fresh snapshots and the host among [`Request::excluded_hosts`].
//!
//! Reading order: [`request`] and [`host`] (the inputs), [`policy`] (the knobs), [`filters`],
//! [`weighers`], [`mod@select`].

pub mod host;
pub mod request;

pub mod policy;

pub mod filters;
pub mod weighers;

pub mod select;

pub use filters::FilterName;
pub use host::HostSnapshot;
pub use policy::{Multipliers, Policy, PolicyError};
pub use request::{GroupPolicy, ImageProperties, Request, ServerGroup};
pub use select::{NoValidHost, Ranked, Removed, Selection, select};

#[cfg(test)]
mod tests;
