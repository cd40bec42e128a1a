//! Campaigns against the storage engine and the journal.
//!
//! Owns: random work on an engine, on a journal, and on both as a replica uses them; crash images
//! between any two calls of the disk; single faults of every kind in every file; processes that
//! are killed; the same work done by a peer.
//! Must never know: how engine and journal do it; only what they promised.
//! Invariants:
//! * One seed is one run, and the same one on every machine (kills of real processes excepted).
//! * A campaign panics on the first wrong answer; whoever runs it names the seed.
//! * What a run claims to have tried it counts: images, faults, kills.
//! Source: `reliability.md`; Pillai et al., All File Systems Are Not Created Equal (OSDI 2014).

pub mod camera;
pub mod campaign;
pub mod command;
#[cfg(feature = "fjall")]
pub mod differential;
pub mod engine;
pub mod faults;
pub mod journal;
pub mod kill;
pub mod node;
pub mod options;
pub mod probe;
pub mod seeds;

// The worlds and models that the crates' own tests use: one model, one meaning.
#[path = "../../../crates/journal/tests/all/rig.rs"]
pub mod rig;
#[path = "../../../crates/journal/tests/all/world.rs"]
pub mod world;
// The engine's.
#[path = "../../../crates/lsm/tests/all/harness.rs"]
pub mod harness;
