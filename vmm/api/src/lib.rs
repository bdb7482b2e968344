//! Placeholder until this crate's table of contents is written.
