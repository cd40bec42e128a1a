//! What this binary is.

/// Version of the package.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");
