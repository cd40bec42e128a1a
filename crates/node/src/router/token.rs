//! Resume tokens of scans and watches: what has been seen, per span.
//!
//! Opaque to clients. A token is bound to the question it was given for: the fingerprint of
//! keyspace, interval and direction; used with another question it is refused, since the answer
//! would have gaps. Points stand per span, not per range, so that a token survives a split: every
//! range that owns part of a span starts where the span stopped.
//!
//! Layout, little-endian:
//! ```text
//! offset  size  field
//!      0     1  magic: 0x48
//!      1     1  version: 1
//!      2     1  kind: 1 = scan, 2 = watch
//!      3     1  reserved: 0
//!      4     8  fingerprint of the question
//!     12     2  length of the last key; 0xffff = there is none
//!     14     2  number of spans
//!     16     …  last key (scan: the last one delivered)
//!      …    32  per span: start 8, end 8 (0 = top of the ring), revision 8, clock in ms 8
//!      …     8  xxh3-64 of all before, seed 0x686f_6c64
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::{Revision, Span, limits};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::api::Point;
use crate::errors::ApiError;

const MAGIC: u8 = 0x48;
const VERSION: u8 = 1;
const SEED: u64 = 0x686f_6c64;
const HEAD_BYTES: usize = 16;
const SPAN_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 8;
const NO_KEY: u16 = u16::MAX;

/// Most spans of a token: the most ranges a keyspace can have, split generously.
pub(crate) const SPANS_MAX: usize = 4_096;

/// What the token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A scan.
    Scan = 1,
    /// A watch.
    Watch = 2,
}

/// What has been seen of one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The span.
    pub span: Span,
    /// Scan: the pinned read point. Watch: everything up to it has been delivered.
    pub point: Point,
}

/// A decoded token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// What it belongs to.
    pub kind: Kind,
    /// Of the question; see [`fingerprint`].
    pub fingerprint: u64,
    /// Scan: the last key delivered, if any was.
    pub last_key: Option<Bytes>,
    /// Per span.
    pub seen: Vec<Seen>,
}

/// Tells questions apart. Parts are hashed with their lengths, so that none runs into the next.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::with_seed(SEED);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

impl Token {
    /// The bytes a client gets.
    pub fn encode(&self) -> Bytes {
        assert!(self.seen.len() <= SPANS_MAX, "{} spans in a token", self.seen.len());
        let key = self.last_key.as_deref().unwrap_or_default();
        let length = HEAD_BYTES + key.len() + self.seen.len() * SPAN_BYTES + CHECKSUM_BYTES;
        let mut buffer = BytesMut::with_capacity(length);
        buffer.put_slice(&[MAGIC, VERSION, self.kind as u8, 0]);
        buffer.put_u64_le(self.fingerprint);
        buffer.put_u16_le(match &self.last_key {
            Some(key) => u16::try_from(key.len()).unwrap_or(NO_KEY),
            None => NO_KEY,
        });
        buffer.put_u16_le(u16::try_from(self.seen.len()).unwrap_or(u16::MAX));
        buffer.put_slice(key);
        for seen in &self.seen {
            buffer.put_u64_le(seen.span.start);
            buffer.put_u64_le(seen.span.end);
            buffer.put_u64_le(seen.point.revision.0);
            buffer.put_u64_le(seen.point.clock_ms);
        }
        buffer.put_u64_le(xxh3_64_with_seed(&buffer, SEED));
        buffer.freeze()
    }

    /// Reads a token given for the question `fingerprint`.
    ///
    /// # Errors
    /// [`ApiError::Malformed`] where it was cut, changed, or belongs to another question.
    pub fn decode(bytes: &Bytes, kind: Kind, fingerprint: u64) -> Result<Self, ApiError> {
        let token = Self::parse(bytes)
            .ok_or_else(|| ApiError::Malformed("the resume token is damaged".into()))?;
        if token.kind != kind || token.fingerprint != fingerprint {
            let text = "the resume token belongs to another request";
            return Err(ApiError::Malformed(text.into()));
        }
        Ok(token)
    }

    fn parse(bytes: &Bytes) -> Option<Self> {
        let body = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|body| *body >= HEAD_BYTES)?;
        let checksum = word(bytes, body)?;
        if xxh3_64_with_seed(bytes.get(..body)?, SEED) != checksum {
            return None;
        }
        if bytes.get(..2)? != [MAGIC, VERSION] || bytes.get(3)? != &0 {
            return None;
        }
        let kind = match bytes.get(2)? {
            1 => Kind::Scan,
            2 => Kind::Watch,
            _ => return None,
        };
        let key_length = u16::from_le_bytes(bytes.get(12..14)?.try_into().ok()?);
        let spans = usize::from(u16::from_le_bytes(bytes.get(14..16)?.try_into().ok()?));
        let key_bytes = if key_length == NO_KEY { 0 } else { usize::from(key_length) };
        let first = HEAD_BYTES + key_bytes;
        let fits = first + spans * SPAN_BYTES == body && spans <= SPANS_MAX;
        if !fits || key_bytes > limits::KEY_BYTES_MAX {
            return None;
        }
        let last_key = (key_length != NO_KEY).then(|| bytes.slice(HEAD_BYTES..first));
        let seen = (0..spans)
            .map(|index| read_seen(bytes, first + index * SPAN_BYTES))
            .collect::<Option<Vec<_>>>()?;
        Some(Self { kind, fingerprint: word(bytes, 4)?, last_key, seen })
    }
}

fn read_seen(bytes: &Bytes, at: usize) -> Option<Seen> {
    Some(Seen {
        span: Span::new(word(bytes, at)?, word(bytes, at + 8)?)?,
        point: Point { revision: Revision(word(bytes, at + 16)?), clock_ms: word(bytes, at + 24)? },
    })
}

fn word(bytes: &Bytes, at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let seen = |span, revision, clock_ms| Seen {
            span,
            point: Point { revision: Revision(revision), clock_ms },
        };
        let spans = Span::split_ring(2);
        Token {
            kind: Kind::Scan,
            fingerprint: fingerprint(&[b"default", b"a", b""]),
            last_key: Some("key".into()),
            seen: vec![seen(spans[0], 7, 1_000), seen(spans[1], 9, 2_000)],
        }
    }

    #[test]
    fn a_token_decodes_to_what_was_encoded() {
        let mut token = token();
        for key in [None, Some(Bytes::new()), Some(Bytes::from(vec![1; 4096]))] {
            token.last_key = key;
            let decoded = Token::decode(&token.encode(), Kind::Scan, token.fingerprint);
            assert_eq!(decoded.unwrap(), token);
        }
    }

    #[test]
    fn a_token_changed_in_any_byte_or_cut_anywhere_is_refused() {
        let token = token();
        let bytes = token.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x10;
            let decoded = Token::decode(&changed.into(), Kind::Scan, token.fingerprint);
            assert!(decoded.is_err(), "byte {at}");
            let cut = Token::decode(&bytes.slice(..at), Kind::Scan, token.fingerprint);
            assert!(cut.is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_token_of_another_question_is_refused() {
        let token = token();
        let bytes = token.encode();
        let other = fingerprint(&[b"default", b"", b"a"]);
        assert_ne!(other, token.fingerprint);
        assert!(Token::decode(&bytes, Kind::Scan, other).is_err());
        assert!(Token::decode(&bytes, Kind::Watch, token.fingerprint).is_err());
    }

    #[test]
    fn the_bytes_of_version_1_stay_what_they_are() {
        let golden = include_bytes!("../../tests/golden/resume_token_v1.bin");
        assert_eq!(token().encode(), golden.as_slice());
    }
}
