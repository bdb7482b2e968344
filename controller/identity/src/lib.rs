//! Identity (Keystone): domains, projects, users, roles and tokens: who may ask.
//!
//! - [`password`]: argon2id hashes, made and checked off the async threads.
//! - [`tokens`]: opaque random tokens, stored as hashes; scopes; validation, which asks the
//!   database each time, so that a revoked role or a disabled user counts at once.
//! - [`assignments`]: who has which role where; [`application_credentials`]: what a program logs in with.
//! - [`bootstrap`]: the first domain, project, roles and administrator.
//! - [`catalog`]: what services there are and where.
//! - [`authenticate`]: what turns a request's token into who asks.
//! - [`api`]: REST in front of them.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests wait for real things")
)]

pub mod api;
pub mod application_credentials;
pub mod assignments;
pub mod authenticate;
pub mod bootstrap;
pub mod catalog;
pub mod password;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokens;

use berth_rpc::clock::Rng;

/// The domain that always is.
pub const DEFAULT_DOMAIN: &str = "default";

/// A fresh id in Keystone's form: 32 hexadecimal digits.
pub fn new_id(rng: &dyn Rng) -> String {
    uuid::Builder::from_random_bytes(rng.bits().to_be_bytes())
        .into_uuid()
        .simple()
        .to_string()
}

/// The roles that having this one implies, as Keystone's bootstrap sets them up.
pub fn implied(role: &str) -> &'static [&'static str] {
    match role {
        "admin" => &["manager", "member", "reader"],
        "manager" => &["member", "reader"],
        "member" => &["reader"],
        _ => &[],
    }
}
