//! Whole clusters in one thread: the real nodes, gRPC included, on simulated network, time, disks.
//!
//! Owns: machines with their disks and clocks, the network between them, faults, clients at work,
//! the trace.
//! Must never know: how a node works inside.
//! Invariants:
//! * Nothing of a run happens outside of its thread, so one seed is one run.
//! * Faults are survivable: whatever a client was told must hold.
//! * Of a cluster that has ended nothing is left in memory.
//! * A run without traffic, or without the fault it was to show, has failed.
//! Source: `reliability.md`; turmoil for network and time.

mod brakes;
mod clock;
mod cluster;
mod disks;
mod faults;
mod invariants;
mod leases;
mod load;
mod machine;
mod nemesis;
mod net;
mod options;
mod panics;
mod process;
mod run;
#[cfg(test)]
mod scenes;
mod scheduled;
mod trace;
mod verdict;

pub use cluster::{Cluster, LinkState, Violation};
pub use faults::FaultKind;
pub use leases::{LeaseReport, run_leases};
pub use load::Outcomes;
pub use machine::Standing;
pub use nemesis::Nemesis;
pub use options::Options;
pub use run::{Report, run, run_with};
pub use scheduled::scheduled;
pub use trace::Trace;
