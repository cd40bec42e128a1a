//! The wire formats against what others expect of them.

#![allow(clippy::unwrap_used)]

mod etcd;
