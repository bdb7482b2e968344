//! Free TCP ports, so that no test has a fixed one.

use std::collections::HashSet;
use std::net::{IpAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// A TCP port that nobody listens on at `ip` now, and that this process has not given out before.
///
/// Another process may still take it before its user binds it; who starts a service must be
/// ready to try again.
///
/// # Errors
/// If `ip` is not an address of this machine.
pub fn free_port(ip: IpAddr) -> Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_with(HashSet::new);
    for _ in 0..1000 {
        let listener =
            TcpListener::bind((ip, 0)).with_context(|| format!("no port can be bound at {ip}"))?;
        let port = listener.local_addr()?.port();
        if given.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port at {ip}: this process has used them all");
}
