//! The etcd API on a node in this process, asked by clients of the wire.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod archives;
mod elections;
mod harness;
mod health;
mod json;
mod keys;
mod keyspaces;
mod leases;
mod locks;
mod maintenance;
mod operators;
mod refusals;
mod users;
mod watches;
