//! Everything that is shaped by openraft: its types, storage and network as this crate fills them.

pub(crate) mod codec;
pub(crate) mod convert;
pub(crate) mod log_store;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod runtime;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod staging;
#[cfg(test)]
mod suite;
pub(crate) mod tail;
pub(crate) mod types;

/// openraft's handle of one range.
pub(crate) type Group = openraft::Raft<types::TypeConfig, machine::Machine>;
