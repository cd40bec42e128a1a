//! Where a key lies on the ring.
//!
//! `position(key) = xxh3_64(hashed part)`, seed 0. The hashed part is the text between the first
//! `{` and the next `}` if both exist and it is not empty, else the whole key: Redis Cluster's
//! rule, so that keys with the same `{tag}` share a range and can share a transaction.

use xxhash_rust::xxh3::xxh3_64;

/// The part of `key` that decides its place: its `{tag}`, or all of it.
pub fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else {
        return key;
    };
    let after = key.get(open + 1..).unwrap_or_default();
    match after.iter().position(|b| *b == b'}') {
        Some(length) if length > 0 => after.get(..length).unwrap_or(key),
        _ => key,
    }
}

/// The point of `key` on the ring `0..2^64`. Cost: one pass over the hashed part.
pub fn position(key: &[u8]) -> u64 {
    xxh3_64(hashed_part(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_rule_is_that_of_redis_cluster() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"plain", b"plain"),
            (b"{user1}.name", b"user1"),
            (b"a{user1}b{user2}", b"user1"),
            (b"a{}b", b"a{}b"),
            (b"a{}{x}", b"a{}{x}"),
            (b"a{b", b"a{b"),
            (b"a}b{c}", b"c"),
            (b"{{x}}", b"{x"),
        ];
        for (key, part) in cases {
            assert_eq!(hashed_part(key), part, "{:?}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn positions_are_the_golden_vectors() {
        assert_eq!(position(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(position(b"{user1}.name"), position(b"user1"));
        assert_eq!(position(b"a"), 0xe6c6_32b6_1e96_4e1f);
    }
}
