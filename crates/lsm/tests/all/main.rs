//! The engine from outside.

mod memory;
