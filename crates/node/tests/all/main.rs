//! Tests of the node through its public parts: the transport on simulated networks, the API
//! through real sockets of nodes in this process.
// Outside of a `#[test]` clippy does not see that this is test code.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod cluster;
mod coordination;
mod data;
mod etcd;
mod harness;
mod net;
mod refusals;
mod rig;
mod scans;
mod transport;
mod users;
mod watches;
