//! One number for the whole logical state of a range.
//!
//! Covered: revision and clock; the newest version of every key in the span; sessions with what
//! they remember; leases with what is attached, locks with their queues, the expiry index; truth,
//! compacted revision, marks, alarms, users and roles. Left out, since replicas with the same state
//! may differ in it: old versions (compaction drops them when it likes), record numbers, how
//! answers lie in chunks, and where in the log the state stands.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use holdfast_lsm::{Engine, Family, ReadPoint};
use holdfast_model::ClientId;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::Result;
use crate::auth::AuthStore;
use crate::reader::Published;
use crate::records::{
    AlarmsRecord, AuthRecord, AuthRoleRecord, AuthUserRecord, ChunkRecord, Remembered,
    SessionRecord, session_from_key, unseal,
};

/// The hash of the state an engine has at `point`.
pub(crate) fn state_hash(engine: &Engine, point: ReadPoint, published: &Published) -> Result<u64> {
    let mut hash = Xxh3::new();
    word(&mut hash, point.revision.0);
    word(&mut hash, point.clock_ms);
    word(&mut hash, published.compacted.0);
    for mark in &published.marks {
        field(&mut hash, &mark.encode_to_vec());
    }
    if !published.alarms.is_empty() {
        field(&mut hash, &AlarmsRecord::of(&published.alarms).encode_to_vec());
    }
    if !published.auth.is_fresh() {
        users(&mut hash, &published.auth);
    }
    if let Some(truth) = published.truth {
        field(&mut hash, &truth.to_configure().encode_to_vec());
    }
    for found in scan(engine, Family::Data, point)? {
        let (key, record) = found?;
        if published.truth.is_some_and(|truth| truth.owns(&key)) {
            field(&mut hash, &key);
            word(&mut hash, record.seq);
            word(&mut hash, u64::from(record.ordinal));
            field(&mut hash, &record.value);
        }
    }
    for family in [Family::Expiry, Family::Lease, Family::Lock] {
        word(&mut hash, u64::from(family.byte()));
        for found in scan(engine, family, point)? {
            let (key, record) = found?;
            field(&mut hash, &key);
            field(&mut hash, &record.value);
        }
    }
    sessions(&mut hash, engine, point)?;
    Ok(hash.digest())
}

/// Users and roles, by name.
fn users(hash: &mut Xxh3, auth: &AuthStore) {
    field(hash, &AuthRecord::of(auth).encode_to_vec());
    for (name, user) in auth.users() {
        field(hash, name.as_bytes());
        field(hash, &AuthUserRecord::of(user).encode_to_vec());
    }
    for (name, role) in auth.roles() {
        field(hash, name.as_bytes());
        field(hash, &AuthRoleRecord::of(role).encode_to_vec());
    }
}

/// Sessions in order, each with the answers at or above its watermark, by number.
fn sessions(hash: &mut Xxh3, engine: &Engine, point: ReadPoint) -> Result<()> {
    let mut table: BTreeMap<ClientId, (SessionRecord, BTreeMap<u64, Remembered>)> = BTreeMap::new();
    for found in scan(engine, Family::Session, point)? {
        let (key, record) = found?;
        let (client, chunk) = session_from_key(&key)?;
        let (session, answers) = table.entry(client).or_default();
        match chunk {
            None => *session = unseal("session", record.value)?,
            Some(_) => {
                let chunk: ChunkRecord = unseal("session", record.value)?;
                answers.extend(chunk.answers.into_iter().map(|answer| (answer.seq, answer)));
            }
        }
    }
    for (client, (session, answers)) in table {
        field(hash, &client.to_bytes());
        field(hash, &session.encode_to_vec());
        for (_, answer) in answers.range(session.watermark..) {
            field(hash, &answer.encode_to_vec());
        }
    }
    Ok(())
}

fn scan(engine: &Engine, family: Family, point: ReadPoint) -> Result<holdfast_lsm::Scan> {
    let all = (Bound::<Bytes>::Unbounded, Bound::Unbounded);
    Ok(engine.scan(family, all, point, false)?)
}

fn word(hash: &mut Xxh3, word: u64) {
    hash.update(&word.to_le_bytes());
}

/// Adds bytes with their length, so that neighbours cannot trade bytes.
fn field(hash: &mut Xxh3, bytes: &[u8]) {
    word(hash, bytes.len() as u64);
    hash.update(bytes);
}
