//! The asynchronous doors from outside. Time is tokio's paused clock, which jumps to the next
//! timer when nothing else can run: no test waits.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod connections;
mod pools;
mod tasks;
mod timers;
