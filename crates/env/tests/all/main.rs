//! The doors from outside: both disks keep one contract, and the simulated one its promises.

#![allow(clippy::unwrap_used)]

mod contract;
mod power;
