//! What every service of the controller stands on.
//!
//! - [`store`]: the database, and the one way in.

pub mod store;
