//! The SDK against nodes that answer what each test wants.

mod coordination;
mod mock;
mod retries;
mod routing;
mod streams;
