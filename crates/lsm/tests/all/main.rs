//! The engine from outside.
#![allow(clippy::unwrap_used)] // a test may stop where it stands

mod blobs;
mod compaction;
mod concurrent;
mod crash;
mod damage;
mod golden;
mod harness;
mod memory;
mod model;
mod pace;
mod parts;
mod ranges;
mod reads;
mod scrub;
mod span;
