//! A cluster on this machine: start, stop, kill, pause and look at its nodes.
//!
//! Owns: the layout of `.cluster/`, ports, pid files, founding and waiting for health.
//! Must never know: how a node works inside.
//! Invariants:
//! * A process is named by pid and start time, so a reused pid is never signalled.
//! * Data is deleted by `wipe` alone.

mod layout;
mod ports;
mod process;
mod verbs;

pub use layout::Layout;
pub use process::{cpu_seconds, resident_bytes};
pub use verbs::run;
pub use verbs::{found_and_wait, kill_all, launch_missing, stop_all};
