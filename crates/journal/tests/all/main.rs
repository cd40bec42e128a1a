//! The journal through its public interface, on real and simulated disks.
#![allow(clippy::unwrap_used)] // a test may stop where it stands

mod basics;
mod commit;
mod crash;
mod damage;
mod golden;
mod model;
mod real;
mod recycling;
mod rig;
mod space;
mod world;
