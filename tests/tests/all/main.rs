//! Real processes, sockets and disks. Each test says what must be true of Holdfast in use.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod crashes;
