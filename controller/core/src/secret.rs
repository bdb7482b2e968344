//! Secrets: 256 random bits, of which only a hash is kept.

use berth_rpc::clock::Rng;
use sha2::{Digest as _, Sha256};

/// 256 random bits, hexadecimal.
pub fn new(rng: &dyn Rng) -> String {
    format!("{:032x}{:032x}", rng.bits(), rng.bits())
}

/// Lower-case hex SHA-256: what is kept of a secret.
pub fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}
