//! A model of rules 1 and 3 to 8 of Berth's protocol: who may run a guest, and when an operation is
//! over. `stateright` walks every order in which the things of [`action`] can happen within
//! [`bounds`], and looks at each state it comes through for what [`properties`] say.
//!
//! There are a controller's database, of which two controllers are two processes that may hold a
//! message; two hosts with agents, their journals and VMMs; the guest's disk; and one server. Where
//! the product decides by a pure function, the model calls it: [`berth_agent::record::VmmRecord`]
//! says what an agent does with every command.
//!
//! To read it, begin with [`words`] (what travels), [`database`], [`workflow`] (the steps of each
//! operation), [`host`] and [`storage`]; then [`agent`] and [`apply`], which say what each thing
//! does. [`world`] says when it can happen. [`rules`] lists the words of the protocol that can be
//! taken away, and [`weakened`] what breaks then. [`scenarios`] are the bounds that the tests walk.
//!
//! What it does not have: the share of a fleet that may be evacuated at once, the draining of
//! requests at a lease's soft end, clocks that drift by more than the margin, and an administrator
//! who says that a host is off when it is not.

pub mod action;
pub mod agent;
pub mod apply;
pub mod bounds;
pub mod database;
pub mod decisions;
pub mod host;
pub mod model;
pub mod properties;
pub mod rules;
pub mod scenarios;
pub mod settle;
pub mod storage;
pub mod weakened;
pub mod words;
pub mod workflow;
pub mod world;
