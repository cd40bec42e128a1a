//! The transport between nodes.

mod forward;

pub use forward::{ForwardError, ForwardHandler, ForwardSender};
