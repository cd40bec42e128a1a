//! The doors from outside: both disks keep one contract, and the simulated one its promises.

mod contract;
mod power;
