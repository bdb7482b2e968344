//! The machines and services that Berth's tests run against, each private to its test.
//!
//! Nothing here has a fixed name or port, and nothing outlives its value: dropping it, or the
//! death of the test process, removes it.
//!
//! - [`process`]: child processes that cannot outlive the test; [`ports`]: free ports.
//! - [`rabbit`], [`postgres`]: Debian's RabbitMQ and PostgreSQL, private, with `kill -9`.

pub mod ports;
pub mod process;

pub mod postgres;
pub mod rabbit;
