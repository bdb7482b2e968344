//! Placeholder until this crate's table of contents is written.

pub mod api;
pub mod compute;
pub mod store;
