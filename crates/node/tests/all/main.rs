//! Tests of the node through its public parts, on simulated networks and disks.
#![allow(missing_docs)]

mod net;
mod rig;
mod transport;
