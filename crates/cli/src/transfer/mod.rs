//! Moving many records in and out.

mod format;

pub use format::{Format, LineRead, Lines, parse, write};
