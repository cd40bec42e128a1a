//! Many replicas in one process: a node of the cluster.
//!
//! Owns: the registry of replicas and their threads ([`registry`]), the transport between nodes
//! ([`peers`]), the layout of range 0 with founding, keyspaces and placement of leaders
//! ([`system`]), the calls every protocol's adapter makes ([`api`]), configuration, metrics,
//! orderly start and stop ([`Node`]).
//! Must never know: storage formats, etcd, HTTP.
//! Invariants:
//! * Nothing is served, refused or deleted because of a copy of the cluster map.
//! * A replica is destroyed only on positive evidence read linearizably from range 0.
//! * A directory that was wiped or rolled back never speaks under its old identity.

pub mod api;
pub mod auth;
pub mod config;
mod convert;
mod errors;
pub mod identity;
mod lifecycle;
pub mod limits;
pub mod metrics;
pub mod peers;
pub mod registry;
pub mod router;
pub mod sealed;
pub mod services;
pub mod system;
pub mod users;

pub use lifecycle::{DataDir, DataDirError, Node, StartError, World};
