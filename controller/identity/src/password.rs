//! Passwords: argon2id, hashed and checked on blocking threads, a few at a time.
//!
//! Each hash takes 12 MiB and three passes (OWASP's middle setting): dear for a guesser,
//! a few tens of milliseconds for a log-in. The number of them that run at once is bounded,
//! so that a flood of log-ins takes no memory and no async thread.

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use berth_rpc::clock::Rng;
use tokio::sync::Semaphore;

const MEMORY_KIB: u32 = 12 * 1024;
const PASSES: u32 = 3;

/// How many are hashed or checked at once.
static RUNNING: Semaphore = Semaphore::const_new(4);

/// Why a password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// argon2 refused; its parameters or the stored hash are wrong.
    #[error("password hash: {0}")]
    Hash(String),
    /// The thread that hashed ended early.
    #[error("password hashing was cut short: {0}")]
    Stopped(String),
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let params =
        Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|e| PasswordError::Hash(e.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Hashes a password for the database, in PHC form.
///
/// # Errors
/// [`PasswordError`]; none is the caller's fault.
pub async fn hash(rng: &dyn Rng, password: String) -> Result<String, PasswordError> {
    let salt = SaltString::encode_b64(&rng.bits().to_be_bytes())
        .map_err(|e| PasswordError::Hash(e.to_string()))?;
    blocking(move || {
        let hash = hasher()?
            .hash_password(password.as_bytes(), &salt)
            .map_err(|e| PasswordError::Hash(e.to_string()))?;
        Ok(hash.to_string())
    })
    .await
}

/// Whether the password is the one that `stored` was made from. A user who does not exist is
/// checked against `None`, which takes as long and is never right.
///
/// # Errors
/// [`PasswordError`]; a wrong password is `Ok(false)`.
pub async fn verify(stored: Option<String>, password: String) -> Result<bool, PasswordError> {
    blocking(move || {
        let Some(stored) = stored.filter(|s| !s.is_empty()) else {
            let salt =
                SaltString::encode_b64(&[0; 16]).map_err(|e| PasswordError::Hash(e.to_string()))?;
            drop(hasher()?.hash_password(password.as_bytes(), &salt));
            return Ok(false);
        };
        let parsed = PasswordHash::new(&stored).map_err(|e| PasswordError::Hash(e.to_string()))?;
        Ok(hasher()?
            .verify_password(password.as_bytes(), &parsed)
            .is_ok())
    })
    .await
}

async fn blocking<T, F>(work: F) -> Result<T, PasswordError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, PasswordError> + Send + 'static,
{
    let _permit = RUNNING
        .acquire()
        .await
        .map_err(|e| PasswordError::Stopped(e.to_string()))?;
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| PasswordError::Stopped(e.to_string()))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use berth_rpc::clock::SeededRng;

    #[tokio::test]
    async fn only_the_right_password_is_right_and_salts_differ() {
        let rng = SeededRng::new(1);
        let one = hash(&rng, "secret".into()).await.unwrap();
        let two = hash(&rng, "secret".into()).await.unwrap();
        assert_ne!(one, two);
        assert!(verify(Some(one.clone()), "secret".into()).await.unwrap());
        assert!(!verify(Some(one), "Secret".into()).await.unwrap());
        assert!(!verify(None, "secret".into()).await.unwrap());
        assert!(!verify(Some(String::new()), String::new()).await.unwrap());
    }
}
