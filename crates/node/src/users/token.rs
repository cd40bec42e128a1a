//! What a token is: a statement about a user, sealed with the key of its keyspace.
//!
//! Nobody keeps tokens: whoever has the key, which is part of the keyspace's state, can tell
//! whether a token was made with it. As text it is base64url without padding of
//!
//! ```text
//! version u8 = 1 │ auth revision u64 │ issued at u64, ms │ nonce u64 │ user … │ HMAC-SHA256 32
//! ```
//!
//! numbers little-endian; the HMAC is over everything before it. Every `AuthEnable` draws another
//! key, so that no token outlives the time during which users were asked for.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use holdfast_kv::auth::AuthTokenKey;
use sha2::Sha256;

/// The only version there is.
const VERSION: u8 = 1;
/// Version, revision, time, nonce.
const HEAD_BYTES: usize = 1 + 8 + 8 + 8;
/// Bytes of the seal.
pub(super) const SEAL_BYTES: usize = 32;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Who it was given to.
    pub user: String,
    /// The revision of the keyspace's users when its password was checked.
    pub revision: u64,
    /// Wall time of the node that made it, milliseconds.
    pub issued_ms: u64,
    /// Tells apart what is said twice in a millisecond.
    pub nonce: u64,
}

/// Tells a token from all others.
pub(super) type Seal = [u8; SEAL_BYTES];

impl Statement {
    /// The token that says this.
    pub fn seal(&self, key: &AuthTokenKey) -> String {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.user.len() + SEAL_BYTES);
        bytes.push(VERSION);
        for number in [self.revision, self.issued_ms, self.nonce] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.user.as_bytes());
        let seal: Seal = mac(key, &bytes).finalize().into_bytes().into();
        bytes.extend(seal);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token says, if it was made with `key`. Takes the same time whatever part of the seal
    /// is wrong.
    pub fn open(token: &[u8], key: &AuthTokenKey) -> Option<(Self, Seal)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (said, seal) = bytes.split_last_chunk::<SEAL_BYTES>()?;
        mac(key, said).verify_slice(seal).ok()?;
        let (version, rest) = said.split_first()?;
        let (revision, rest) = number(rest)?;
        let (issued_ms, rest) = number(rest)?;
        let (nonce, user) = number(rest)?;
        let user = String::from_utf8(user.to_vec()).ok()?;
        (*version == VERSION).then_some((Self { user, revision, issued_ms, nonce }, *seal))
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*head), rest))
}

fn mac(key: &AuthTokenKey, bytes: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.chain_update(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: AuthTokenKey = [7; 32];

    fn statement() -> Statement {
        Statement { user: "änna".into(), revision: 9, issued_ms: 1 << 40, nonce: 3 }
    }

    #[test]
    fn a_token_is_read_with_its_own_key_alone() {
        let token = statement().seal(&KEY);
        assert_eq!(Statement::open(token.as_bytes(), &KEY).unwrap().0, statement());
        assert_eq!(Statement::open(token.as_bytes(), &[8; 32]), None);
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_none() {
        let token = URL_SAFE_NO_PAD.decode(statement().seal(&KEY)).unwrap();
        for at in 0..token.len() {
            let mut forged = token.clone();
            forged[at] ^= 1;
            let forged = URL_SAFE_NO_PAD.encode(forged);
            assert_eq!(Statement::open(forged.as_bytes(), &KEY), None, "byte {at}");
        }
        for short in 0..token.len() {
            let cut = URL_SAFE_NO_PAD.encode(&token[..short]);
            assert_eq!(Statement::open(cut.as_bytes(), &KEY), None, "{short} bytes");
        }
        for nonsense in ["", "nonsense", "nonsense.7", "=", "ä"] {
            assert_eq!(Statement::open(nonsense.as_bytes(), &KEY), None, "{nonsense}");
        }
    }

    #[test]
    fn the_layout_of_a_token_stays() {
        let statement = Statement { user: "u".into(), revision: 1, issued_ms: 2, nonce: 3 };
        let bytes = URL_SAFE_NO_PAD.decode(statement.seal(&KEY)).unwrap();
        let (said, _) = bytes.split_last_chunk::<SEAL_BYTES>().unwrap();
        let numbers =
            [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]];
        assert_eq!(said, [&[1], numbers.as_flattened(), b"u"].concat());
    }
}
