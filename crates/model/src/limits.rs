//! Every size limit of the product, with its unit, in one place.
//!
//! These are the hard ceilings and defaults; configuration may lower a limit, never raise it
//! over its ceiling. Relations between limits are checked at compile time below.

use std::time::Duration;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Longest key every configuration must accept, bytes.
pub const KEY_BYTES_GUARANTEED: usize = 256;
/// Longest value, bytes (10 MiB).
pub const VALUE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Largest request, bytes (16 MiB).
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest message between nodes, bytes (17 MiB): the largest request plus overhead.
pub const PEER_MESSAGE_BYTES_MAX: usize = 17 * 1024 * 1024;
/// Most operations in a batch.
pub const BATCH_OPERATIONS_MAX: usize = 1_000;
/// Most operations in a transaction, compares and nested ones included.
pub const TRANSACTION_OPERATIONS_MAX: usize = 128;
/// Most keys of one scan page.
pub const SCAN_PAGE_KEYS_MAX: usize = 1_000;
/// Most bytes of one scan page (at least one key is always returned).
pub const SCAN_PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most watches on one stream.
pub const WATCHES_PER_STREAM_MAX: usize = 1_000;
/// Most keys one lease revoke or range delete removes in its revision.
pub const RANGE_DELETE_KEYS_MAX: usize = 100_000;
/// Shortest TTL.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest TTL: ten years.
pub const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Longest TTL of a lease: what clients of etcd may ask for, some 285 years.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(9_000_000_000);
/// Most leases that are listed at a time.
pub const LEASES_LISTED_MAX: usize = 10_000;
/// Most sessions of one range.
pub const SESSIONS_PER_RANGE_MAX: usize = 100_000;
/// Most unanswered mutations of one session in one range.
pub const SESSION_UNANSWERED_MAX: usize = 1_024;
/// Most bytes of one remembered answer.
pub const SESSION_ANSWER_BYTES_MAX: usize = 1_024;
/// An idle session ends after this much range time.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(15 * 60);
/// Most ranges of one keyspace at creation.
pub const RANGES_PER_KEYSPACE_MAX: u32 = 256;
/// Ranges of a keyspace that does not say.
pub const RANGES_PER_KEYSPACE_DEFAULT: u32 = 8;
/// Longest name of a keyspace, lock or election, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest deadline a request may ask for.
pub const REQUEST_DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Deadline of a request that does not say.
pub const REQUEST_DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

const _: () = assert!(KEY_BYTES_GUARANTEED <= KEY_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
const _: () = assert!(SCAN_PAGE_BYTES_MAX < REQUEST_BYTES_MAX);
