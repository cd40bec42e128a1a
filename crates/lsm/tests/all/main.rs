//! The engine from outside.

mod harness;
mod memory;
mod model;
