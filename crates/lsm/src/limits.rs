//! Every bound of the engine, with its unit.

/// Longest key of any family, bytes; room for a client's key and what indexes put around it.
pub const KEY_BYTES_MAX: usize = 16 * 1024;
/// Longest value, bytes; room for a client's value and the state machine's header.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Levels of the tree, the unsorted level 0 included.
pub const LEVELS: usize = 7;

const _: () = assert!(holdfast_model::limits::KEY_BYTES_MAX * 2 < KEY_BYTES_MAX);
const _: () = assert!(holdfast_model::limits::VALUE_BYTES_MAX * 2 < VALUE_BYTES_MAX);
