//! The OpenStack APIs: REST on one port, a prefix each.
//!
//! Handlers translate: they parse a request, run one transaction, and render rows for the
//! asked microversion. They never speak to an agent (reads of a console excepted) and never
//! wait for one.

mod context;
mod error;

pub use context::{AppState, RequestContext};
pub use error::{ApiError, Service};
