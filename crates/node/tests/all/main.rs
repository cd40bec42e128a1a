//! Tests of the node through its public parts, on simulated networks and disks.
// Outside of a `#[test]` clippy does not see that this is test code.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod net;
mod rig;
mod transport;
