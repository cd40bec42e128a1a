//! Everything that is shaped by openraft: its types, storage and network as this crate fills them.

pub(crate) mod codec;
pub(crate) mod convert;
pub(crate) mod runtime;
pub(crate) mod types;
