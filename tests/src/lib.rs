//! The machines, networks and services that Berth's tests run against, each private to its test.
//!
//! Nothing here has a fixed name or port, and nothing outlives its value: dropping it, or the
//! death of the test process, removes it.
//!
//! - [`host`]: emulated KVM hosts, with files in, commands, output, exit codes and power cuts;
//!   [`client`] and [`channel`] are how they are talked to, [`images`] what they boot.
//! - [`probe`]: a tiny guest in a VMM of its own, on this machine's `/dev/kvm` of any kind.
//! - [`net`]: several hosts, and the test, on one network in a namespace of its own.
//! - [`rabbit`], [`postgres`]: Debian's RabbitMQ and PostgreSQL, private, with `kill -9`.
//! - [`cloud`]: a whole Berth cloud of these; [`openstack`]: the real `openstack` command for it,
//!   [`rest`]: its APIs by curl, [`users`]: who make servers in it;
//!   [`debian`]: what a Debian guest in it needs, and how one sees that it lives.
//! - [`previous`]: the programs of an earlier commit, to run beside today's.
//! - [`process`]: child processes that cannot outlive the test; [`ports`]: free ports; [`scratch`]: folders; [`logs`]: logs, short;
//!   [`binaries`]: the programs under test; [`skip!`]: tests that cannot run here.

pub mod binaries;
pub mod logs;
pub mod ports;
pub mod previous;
pub mod process;
pub mod scratch;
pub mod skip;

pub mod postgres;
pub mod rabbit;

pub mod cloud;
pub mod debian;
pub mod openstack;
pub mod rest;
pub mod users;

pub mod channel;
pub mod client;
pub mod host;
pub mod images;
pub mod net;
pub mod probe;
