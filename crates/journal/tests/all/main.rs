//! The journal through its public interface, on real and simulated disks.

mod basics;
mod rig;
