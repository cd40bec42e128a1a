//! Tests of the state machine from outside, on a simulated disk.

mod script;
mod scripts;
mod world;
