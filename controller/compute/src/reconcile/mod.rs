//! What is kept true of instances, their VMMs and their claims.
//!
//! - [`instances`]: no instance is held by a closed operation.
//! - [`claims`]: claims equal what is, or may be, there.
//! - [`vmms`]: VMMs whose server is gone get their tombstone.

pub mod claims;
pub mod instances;
pub mod vmms;
