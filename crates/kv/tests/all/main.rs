//! Tests of the state machine from outside, on a simulated disk.

mod alarms;
mod batching;
mod bounds;
mod clearing;
mod etcd;
mod exactly_once;
mod formats;
mod limits;
mod model;
mod prefetch;
mod readers;
mod recovery;
mod script;
mod scripts;
mod stream;
mod users;
mod world;
