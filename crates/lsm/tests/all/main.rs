//! The engine from outside.

mod crash;
mod damage;
mod golden;
mod harness;
mod memory;
mod model;
