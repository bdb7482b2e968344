//! The HTTP API on a Unix socket: Firecracker's, and a little more.
//!
//! - [`http`]: requests and answers as bytes.
//! - [`routes`]: from a request to an [`Action`](crate::action::Action), from an answer to a body.
//! - [`server`]: the socket, its connections, and the way to the state driver.
//!
//! Nothing here decides anything: what is allowed when, and what makes sense, is the state
//! driver's to say.

pub mod http;
pub mod routes;
pub mod server;

pub use server::Server;
