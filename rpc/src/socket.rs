//! The in-process broker of another process of this machine, over a Unix socket.
//!
//! [`serve`] lets others in; `unix:///path` in a transport's URLs leads to it ([`crate::connect`]). It is for
//! measurements with more hosts than one RabbitMQ has queues for, and for machines that have none. Whoever may
//! open the socket may do everything: it is its owner's only.

mod client;
mod frame;
mod server;

pub(crate) use client::Client;
pub use server::serve;
