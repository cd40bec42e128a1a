//! Moving many records in and out.

mod dump;
mod format;
mod load;

pub use dump::run as dump;
pub use format::Format;
pub use load::run as load;
