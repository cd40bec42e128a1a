//! Measuring: closed loops over the SDK, CPU per operation, a gRPC echo as the ceiling.

pub mod driver;
pub mod echo;
pub mod report;
