//! The synchronous doors to the world: time, disk and randomness, real and simulated.
//!
//! Owns: [`Clock`], [`Disk`], [`Entropy`] as object-safe traits, their real implementations
//! ([`real`]) and the simulated ones ([`sim`]); the switches of seeded [`defects`]; [`marks`] of
//! rare states.
//! Must never know: tokio, what the bytes mean.
//! Invariants:
//! * Nothing below `server` and `cli` reaches the world except through these doors.
//! * A method that returns `Ok` from a `sync_*` call promises durability, nothing less.

mod clock;
pub mod defects;
mod disk;
mod entropy;
pub mod marks;
pub mod real;
pub mod sim;
pub mod sync;
mod write_out;

pub use clock::Clock;
pub use disk::{Disk, DiskSpace, File, FileLock, OpenMode};
pub use entropy::Entropy;
