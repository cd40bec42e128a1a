//! A simulated world: time that moves when told, seeded randomness, a disk that keeps only what
//! was synced.
//!
//! Owns: [`SimTime`] and [`SimClock`], [`SimEntropy`] and [`Random`], [`SimDisk`] with its faults,
//! [`Corpus`].
//! Must never know: what the bytes on the disk mean, which test asks.
//! Invariants:
//! * The same seed and the same calls give the same world, on every machine.
//! * What was synced before a power cut is there after it; nothing else is promised.
//! * After a power cut every call on the old disk fails, so no late write reaches the image.

mod clock;
mod content;
mod corpus;
mod disk;
mod fault;
mod file;
mod random;
mod tree;

pub use clock::{SimClock, SimTime};
pub use content::{PAGE_BYTES, SECTOR_BYTES};
pub use corpus::{Corpus, Target};
pub use disk::{Call, DiskCounters, SimDisk, is_power_cut};
pub use fault::{Effect, Fault, FaultId, Operation};
pub use random::{Random, SimEntropy};
