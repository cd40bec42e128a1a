//! What a request may ask for; checked before anything is proposed.
//!
//! The ceilings are those of `model::limits`; configuration may lower a limit, never raise it.
//! The rules of single operations are `kv`'s; what spans operations or ranges is checked here.

use std::time::Duration;

use holdfast_kv as kv;
use holdfast_model::limits as ceiling;
use serde::{Deserialize, Serialize};

use crate::errors::ApiError;

/// Most read points a request may carry.
pub const MIN_POINTS_MAX: usize = 1_024;

/// Section `[limits]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest key, bytes.
    pub key_bytes_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Largest request message, bytes.
    pub request_bytes_max: usize,
    /// Most operations of a batch.
    pub batch_operations_max: usize,
    /// Most compares and operations of a transaction.
    pub transaction_operations_max: usize,
    /// Most keys of a scan page.
    pub scan_page_keys_max: usize,
    /// Most bytes of a scan page; at least one key is always returned.
    pub scan_page_bytes_max: usize,
    /// Most watches of one stream.
    pub watches_per_stream_max: usize,
    /// Deadline of a request that does not say, milliseconds.
    pub deadline_default_ms: u64,
    /// Longest deadline a request can have, milliseconds; longer ones are cut.
    pub deadline_max_ms: u64,
    /// A request that takes longer than this is logged, milliseconds; 0 = never.
    pub slow_request_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: ceiling::KEY_BYTES_MAX,
            value_bytes_max: ceiling::VALUE_BYTES_MAX,
            request_bytes_max: ceiling::REQUEST_BYTES_MAX,
            batch_operations_max: ceiling::BATCH_OPERATIONS_MAX,
            transaction_operations_max: ceiling::TRANSACTION_OPERATIONS_MAX,
            scan_page_keys_max: ceiling::SCAN_PAGE_KEYS_MAX,
            scan_page_bytes_max: ceiling::SCAN_PAGE_BYTES_MAX,
            watches_per_stream_max: ceiling::WATCHES_PER_STREAM_MAX,
            deadline_default_ms: millis(ceiling::REQUEST_DEADLINE_DEFAULT),
            deadline_max_ms: millis(ceiling::REQUEST_DEADLINE_MAX),
            slow_request_ms: 1_000,
        }
    }
}

impl Limits {
    /// Checks every limit against its floor and ceiling.
    ///
    /// # Errors
    /// The name of the key and its bounds, for the configuration's error message.
    pub fn validate(&self) -> Result<(), String> {
        let deadline_max = millis(ceiling::REQUEST_DEADLINE_MAX);
        let rules: [(&str, u64, u64, u64); 10] = [
            (
                "key_bytes_max",
                wide(self.key_bytes_max),
                wide(ceiling::KEY_BYTES_GUARANTEED),
                wide(ceiling::KEY_BYTES_MAX),
            ),
            ("value_bytes_max", wide(self.value_bytes_max), 1, wide(ceiling::VALUE_BYTES_MAX)),
            (
                "request_bytes_max",
                wide(self.request_bytes_max),
                64 * 1024,
                wide(ceiling::REQUEST_BYTES_MAX),
            ),
            (
                "batch_operations_max",
                wide(self.batch_operations_max),
                1,
                wide(ceiling::BATCH_OPERATIONS_MAX),
            ),
            (
                "transaction_operations_max",
                wide(self.transaction_operations_max),
                1,
                wide(ceiling::TRANSACTION_OPERATIONS_MAX),
            ),
            (
                "scan_page_keys_max",
                wide(self.scan_page_keys_max),
                1,
                wide(ceiling::SCAN_PAGE_KEYS_MAX),
            ),
            (
                "scan_page_bytes_max",
                wide(self.scan_page_bytes_max),
                1024,
                wide(ceiling::SCAN_PAGE_BYTES_MAX),
            ),
            (
                "watches_per_stream_max",
                wide(self.watches_per_stream_max),
                1,
                wide(ceiling::WATCHES_PER_STREAM_MAX),
            ),
            ("deadline_default_ms", self.deadline_default_ms, 10, self.deadline_max_ms),
            ("deadline_max_ms", self.deadline_max_ms, 10, deadline_max),
        ];
        for (key, value, least, most) in rules {
            if value < least || value > most {
                return Err(format!("limits.{key}: between {least} and {most}, given {value}"));
            }
        }
        Ok(())
    }

    /// The limits of single operations, as the state machine's rules take them.
    pub fn operations(&self) -> kv::Limits {
        kv::Limits {
            key_bytes_max: self.key_bytes_max,
            value_bytes_max: self.value_bytes_max,
            request_bytes_max: self.request_bytes_max,
            batch_operations_max: self.batch_operations_max,
            transaction_operations_max: self.transaction_operations_max,
            ..kv::Limits::default()
        }
    }

    /// How long a request may take: what it asked for, within the bounds.
    pub fn deadline(&self, asked: Option<Duration>) -> Duration {
        let most = Duration::from_millis(self.deadline_max_ms);
        asked.unwrap_or(Duration::from_millis(self.deadline_default_ms)).min(most)
    }

    /// Checks a key that is read, watched or named.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for an empty key, [`ApiError::TooLarge`] for a long one.
    pub fn key(&self, key: &[u8]) -> Result<(), ApiError> {
        if key.is_empty() {
            return Err(ApiError::Invalid("key: at least 1 byte, given 0".into()));
        }
        self.bound("key bytes", key)
    }

    /// Checks an end of an interval of keys, which may be empty.
    ///
    /// # Errors
    /// [`ApiError::TooLarge`].
    pub fn bound(&self, what: &str, key: &[u8]) -> Result<(), ApiError> {
        at_most(what, self.key_bytes_max, key.len())
    }
}

/// Refuses a count or size above its limit.
///
/// # Errors
/// [`ApiError::TooLarge`].
pub fn at_most(what: &str, limit: usize, given: usize) -> Result<(), ApiError> {
    if given <= limit { Ok(()) } else { Err(ApiError::too_large(what, limit, given)) }
}

/// Checks the TTL of a key or lock in milliseconds; 0 is refused like any other that is too short.
///
/// # Errors
/// [`ApiError::Invalid`] or [`ApiError::TooLarge`].
pub fn ttl(ttl_ms: u64) -> Result<(), ApiError> {
    ttl_up_to(ceiling::TTL_MAX, ttl_ms)
}

/// Checks the TTL of a lease, likewise.
///
/// # Errors
/// As [`ttl`].
pub fn lease_ttl(ttl_ms: u64) -> Result<(), ApiError> {
    ttl_up_to(ceiling::LEASE_TTL_MAX, ttl_ms)
}

fn ttl_up_to(most: Duration, ttl_ms: u64) -> Result<(), ApiError> {
    let (least, most) = (millis(ceiling::TTL_MIN), millis(most));
    if ttl_ms < least {
        return Err(ApiError::Invalid(format!("TTL: at least {least} ms, given {ttl_ms} ms")));
    }
    if ttl_ms > most {
        return Err(ApiError::TooLarge { what: "TTL in ms".into(), limit: most, given: ttl_ms });
    }
    Ok(())
}

fn wide(value: usize) -> u64 {
    value as u64
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_ceilings_and_valid() {
        let limits = Limits::default();
        assert_eq!(limits.validate(), Ok(()));
        assert_eq!(limits.value_bytes_max, 10 * 1024 * 1024);
    }

    #[test]
    fn a_limit_cannot_be_raised_over_its_ceiling() {
        let limits = Limits { key_bytes_max: 4097, ..Limits::default() };
        let error = limits.validate().unwrap_err();
        assert!(error.contains("limits.key_bytes_max") && error.contains("4097"), "{error}");
        assert!(Limits { key_bytes_max: 255, ..Limits::default() }.validate().is_err());
    }

    #[test]
    fn a_deadline_is_the_default_or_what_was_asked_for_up_to_the_maximum() {
        let limits = Limits::default();
        assert_eq!(limits.deadline(None), Duration::from_secs(5));
        assert_eq!(limits.deadline(Some(Duration::from_millis(3))), Duration::from_millis(3));
        assert_eq!(limits.deadline(Some(Duration::from_secs(600))), Duration::from_secs(60));
    }

    #[test]
    fn an_error_of_a_limit_says_what_limit_and_given() {
        let limits = Limits::default();
        let text = limits.key(&[0; 5000]).unwrap_err().to_string();
        assert_eq!(text, "key bytes: at most 4096, given 5000");
        assert!(limits.key(b"").unwrap_err().to_string().contains("at least 1 byte"));
        assert_eq!(ttl(0).unwrap_err().to_string(), "TTL: at least 1000 ms, given 0 ms");
        assert!(ttl(1000).is_ok());
        let century = 100 * 365 * 24 * 3_600_000;
        assert!(ttl(century).is_err() && lease_ttl(century).is_ok());
        assert!(lease_ttl(9_000_000_000_001).is_err());
    }
}
