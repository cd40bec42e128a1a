//! The asynchronous doors to the world: tasks, timers, threads and the network.
//!
//! Owns: spawning ([`spawn`], [`Tasks`], [`Reactors`]), waiting ([`sleep`], [`timeout`],
//! [`interval`], [`Deadline`]), OS threads ([`thread()`], [`Pool`], and
//! [`Workers`], which a simulation replaces) and connections ([`net`]).
//! Must never know: files, storage, what travels over a connection.
//! Invariants:
//! * Nothing below `server` and `cli` calls bare tokio spawn, time or net; so a simulation that
//!   owns the tokio runtime, the [`net::Net`] and the pools owns all asynchrony.
//! * Every queue is bounded, every thread is named.
//! * What was started through [`Tasks`] has ended when [`Tasks::stop`] returns `Ok`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod held;
pub mod net;
mod pool;
mod rank;
mod reactors;
mod tasks;
mod thread;
mod time;
mod workers;

pub use pool::{Pool, PoolError};
pub use rank::Rank;
pub use reactors::Reactors;
pub use tasks::{StillRunning, Stop, Tasks, spawn, spawn_on, yield_now};
pub use thread::{Thread, thread};
pub use time::{Deadline, Elapsed, Interval, interval, sleep, timeout};
pub use tokio::runtime::Handle;
pub use tokio::task::{JoinError, JoinHandle};
pub use workers::{Nudge, Pace, Turn, Work, Worker, Workers};
