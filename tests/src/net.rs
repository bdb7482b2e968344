//! A network for tests: a nameless network namespace with two bridges.
//!
//! [`TestNet::new`] moves the calling thread into it, so that sockets, threads and processes that
//! the test makes from then on are in it too: it reaches hosts and guests directly, and they reach
//! the RabbitMQ or controller that it starts. Nothing of it exists outside, and the kernel removes
//! it with the last process in it. Dropping the value moves the thread back.
//!
//! With tokio: make the runtime after the namespace ([`TestNet::block_on`]), since threads stay
//! where they were born; `#[tokio::test]` makes it before.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process;

/// The hosts' own network: the test is .1, hosts are .11 and up.
const MANAGEMENT: [u8; 3] = [10, 77, 0];
/// The guests' network: the test is .1; guests' addresses are the controller's business.
const PROVIDER: [u8; 3] = [10, 88, 0];
/// Time for one `ip` command on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The network of one test; not `Send`, since it is the calling thread that is moved.
pub struct TestNet {
    outside: File,
    hosts: AtomicU8,
    taps: AtomicU8,
    _thread: PhantomData<*const ()>,
}

impl TestNet {
    /// Makes a network and moves the calling thread into it.
    ///
    /// # Errors
    /// Without root, or if the kernel has no bridges.
    pub fn new() -> Result<Self> {
        // Born here, the forking thread does not hold the namespace after the test.
        process::start_forker();
        let outside = File::open("/proc/thread-self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace: run as root")?;
        let net = Self {
            outside,
            hosts: AtomicU8::new(11),
            taps: AtomicU8::new(0),
            _thread: PhantomData,
        };
        ip("link set lo up")?;
        for (bridge, prefix) in [("management", MANAGEMENT), ("provider", PROVIDER)] {
            ip(&format!("link add {bridge} type bridge forward_delay 0"))?;
            ip(&format!("addr add {}/24 dev {bridge}", address(prefix, 1)))?;
            ip(&format!("link set {bridge} up"))?;
        }
        Ok(net)
    }

    /// The test's own address on the hosts' network: what RabbitMQ and controllers listen on.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        address(MANAGEMENT, 1).into()
    }

    /// The test's own address on the guests' network, a /24: their gateway.
    #[must_use]
    pub fn provider_ip(&self) -> Ipv4Addr {
        address(PROVIDER, 1)
    }

    /// The guests' network as CIDR.
    #[must_use]
    pub fn provider_cidr(&self) -> String {
        format!("{}/24", address(PROVIDER, 0))
    }

    /// Runs `future` on a runtime whose threads are all in this network.
    ///
    /// # Errors
    /// If no runtime can be made.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(runtime.block_on(future))
    }

    /// An address for another host.
    pub(crate) fn next_host(&self) -> Ipv4Addr {
        address(MANAGEMENT, self.hosts.fetch_add(1, Ordering::Relaxed))
    }

    /// A tap in each of the two bridges, for another host: management, then provider.
    pub(crate) fn next_taps(&self) -> Result<[String; 2]> {
        let number = self.taps.fetch_add(1, Ordering::Relaxed);
        let taps = [format!("tap{number}m"), format!("tap{number}p")];
        for (tap, bridge) in taps.iter().zip(["management", "provider"]) {
            ip(&format!("tuntap add dev {tap} mode tap"))?;
            ip(&format!("link set {tap} master {bridge} up"))?;
        }
        Ok(taps)
    }
}

impl fmt::Debug for TestNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestNet({}, {})", self.ip(), self.provider_cidr())
    }
}

impl Drop for TestNet {
    fn drop(&mut self) {
        // The thread may run another test after this one. If it cannot go back, that test will
        // see an empty network; there is nobody to tell here.
        let _ = setns(&self.outside, CloneFlags::CLONE_NEWNET);
    }
}

fn address(prefix: [u8; 3], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(prefix[0], prefix[1], prefix[2], last)
}

fn ip(arguments: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    process::check(command, PATIENCE)
}
