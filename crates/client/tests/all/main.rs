//! The SDK against nodes that answer what each test wants.
#![allow(clippy::unwrap_used)]

mod coordination;
mod mock;
mod retries;
mod routing;
mod streams;
