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

/// Who hashes: a few at once, and a bounded number who wait. One who comes after them is told to come
/// again, which costs less than to keep them all waiting for longer than their clients do.
struct Gate {
    places: Semaphore,
    running: Semaphore,
}

static GATE: Gate = Gate::new(128, 4);

impl Gate {
    const fn new(places: usize, running: usize) -> Self {
        Self {
            places: Semaphore::const_new(places),
            running: Semaphore::const_new(running),
        }
    }

    /// Runs it on a blocking thread, once it is its turn.
    async fn pass<T, F>(&self, work: F) -> Result<T, PasswordError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, PasswordError> + Send + 'static,
    {
        let _place = self.places.try_acquire().map_err(|_| PasswordError::Busy)?;
        let _turn = self
            .running
            .acquire()
            .await
            .map_err(|e| PasswordError::Stopped(e.to_string()))?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| PasswordError::Stopped(e.to_string()))?
    }
}

/// Why a password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// argon2 refused; its parameters or the stored hash are wrong.
    #[error("password hash: {0}")]
    Hash(String),
    /// Too many wait.
    #[error("Too many passwords are being checked; try again.")]
    Busy,
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
    GATE.pass(move || {
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
    GATE.pass(move || {
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

    #[tokio::test]
    async fn only_so_many_wait_and_who_comes_after_them_is_told_so() {
        let gate = Gate::new(2, 1);
        let turn = gate.running.acquire().await.unwrap();
        let mut waiting = [1, 2].map(|n| Box::pin(gate.pass(move || Ok(n))));
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let refused = gate.pass(|| Ok(3)).await;
        assert!(matches!(refused, Err(PasswordError::Busy)), "{refused:?}");
        drop(turn);
        for (one, n) in waiting.into_iter().zip(1..) {
            assert_eq!(one.await.unwrap(), n);
        }
        assert_eq!(gate.pass(|| Ok(4)).await.unwrap(), 4);
    }
}
