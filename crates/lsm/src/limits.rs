//! Every bound of the engine, with its unit.

/// Longest key of any family, bytes; room for a client's key and what indexes put around it.
pub const KEY_BYTES_MAX: usize = 16 * 1024;
/// Longest value, bytes; room for a client's value and the state machine's header.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest content of any block of a table file, bytes: one record of the largest kind fits, and
/// so does the index of the largest table.
pub const BLOCK_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest table file, bytes.
pub const TABLE_BYTES_MAX: u64 = 64 << 30;
/// Largest manifest, bytes.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// Longest chunk of a snapshot file read at once, bytes.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Levels of the tree, the unsorted level 0 included.
pub const LEVELS: usize = 7;

const _: () = assert!(holdfast_model::limits::KEY_BYTES_MAX * 2 < KEY_BYTES_MAX);
const _: () = assert!(holdfast_model::limits::VALUE_BYTES_MAX * 2 < VALUE_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX < BLOCK_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
