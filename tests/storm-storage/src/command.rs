//! What a log entry says in these campaigns, and what applying it does.

use bytes::Bytes;
use holdfast_env::sim::Random;
use holdfast_lsm::{Batch, Engine, Error, Family, ReadPoint};
use holdfast_model::{LogIndex, Revision};

use crate::harness::{Model, Op};

/// Where every entry leaves its index.
const APPLIED: &[u8] = b"applied";
const TOMBSTONE: u16 = u16::MAX;
/// Set in the byte of the family of a deleted interval.
const IS_RANGE: u8 = 0x80;

/// The content of an entry.
#[derive(Clone, Debug)]
pub struct Command {
    /// What is written, in order.
    pub ops: Vec<Op>,
}

fn key(random: &mut Random) -> Bytes {
    let prefix = ["", "a", "user/", "user/profile/"][random.below(4) as usize];
    Bytes::from(format!("{prefix}{:x}", random.below(14)))
}

fn family(random: &mut Random) -> Family {
    match random.below(3) {
        0 => Family::ALL[random.below(Family::COUNT as u64) as usize],
        _ => Family::Data,
    }
}

impl Command {
    /// Random changes. Values of a `uniform` run are all alike in length and cannot be compressed,
    /// so that stored blocks are alike in length too.
    pub fn random(random: &mut Random, is_uniform: bool) -> Self {
        let mut ops: Vec<Op> = Vec::new();
        for _ in 0..1 + random.below(4) {
            let (family, key) = (family(random), key(random));
            let is_new = |op: &Op| match op {
                Op::Set(f, k, _) => (*f, k) != (family, &key),
                Op::DeleteRange(..) => true,
            };
            if !ops.iter().all(is_new) {
                continue;
            }
            ops.push(match random.below(30) {
                0 => Op::DeleteRange(family, key, self::key(random)),
                1..7 => Op::Set(family, key, None),
                _ => Op::Set(family, key, Some(value(random, is_uniform))),
            });
        }
        Self { ops }
    }

    /// The payload of an entry.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        for op in &self.ops {
            let (kind, key, value) = match op {
                Op::Set(family, key, value) => (family.byte(), key, value.as_ref()),
                Op::DeleteRange(family, start, end) => (family.byte() | IS_RANGE, start, Some(end)),
            };
            let length = value.map_or(TOMBSTONE, |value| value.len() as u16);
            out.push(kind);
            out.push(key.len() as u8);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value.map_or(&[], |value| &value[..]));
        }
        out.into()
    }

    /// Reads a payload back.
    pub fn decode(mut payload: Bytes) -> Self {
        let mut ops = Vec::new();
        while !payload.is_empty() {
            let head = payload.split_to(4);
            let length = u16::from_le_bytes([head[2], head[3]]);
            let family = Family::from_byte(head[0] & !IS_RANGE).unwrap();
            let key = payload.split_to(usize::from(head[1]));
            let value = (length != TOMBSTONE).then(|| payload.split_to(usize::from(length)));
            ops.push(match value {
                Some(end) if head[0] & IS_RANGE != 0 => Op::DeleteRange(family, key, end),
                value => Op::Set(family, key, value),
            });
        }
        Self { ops }
    }

    /// The point after the entry `index`, applied at `before`.
    fn point(&self, before: ReadPoint, index: u64) -> ReadPoint {
        let is_data =
            |op: &Op| matches!(op, Op::Set(Family::Data, ..) | Op::DeleteRange(Family::Data, ..));
        ReadPoint {
            revision: Revision(before.revision.0 + u64::from(self.ops.iter().any(is_data))),
            index: LogIndex(index),
            clock_ms: before.clock_ms + 10,
        }
    }

    /// Applies the entry `index` to `model`.
    pub fn apply_to_model(&self, model: &mut Model, index: u64) {
        let point = self.point(model.point, index);
        for (ordinal, op) in (0..).zip(self.all(index)) {
            match op {
                Op::Set(family, key, value) => {
                    let keys = model.families.entry(family).or_default();
                    let versions = keys.entry(key).or_default();
                    versions.insert(point.seq_max(family), (ordinal, value));
                }
                Op::DeleteRange(family, start, end) if start < end => {
                    let ranges = model.ranges.entry(family).or_default();
                    ranges.push((point.seq_max(family), ordinal, start, end));
                }
                Op::DeleteRange(..) => {}
            }
        }
        model.point = point;
    }

    /// Applies the entry `index` to `engine`, to become durable after the journal is up to `gate`.
    pub fn apply(&self, engine: &Engine, index: u64, gate: u64) -> Result<(), Error> {
        let point = self.point(engine.read_point(), index);
        let mut batch = Batch::new();
        for (ordinal, op) in (0..).zip(self.all(index)) {
            match op {
                Op::Set(family, key, Some(value)) => {
                    batch.put(family, key, point.seq_max(family), ordinal, value);
                }
                Op::Set(family, key, None) => {
                    batch.delete(family, key, point.seq_max(family), ordinal);
                }
                Op::DeleteRange(family, start, end) => {
                    batch.delete_range(family, start, end, point.seq_max(family), ordinal);
                }
            }
        }
        engine.write(batch, point, gate)
    }

    /// The changes, and the mark that the entry was applied.
    fn all(&self, index: u64) -> impl Iterator<Item = Op> + '_ {
        let index = Bytes::copy_from_slice(&index.to_le_bytes());
        let applied = Op::Set(Family::Meta, Bytes::from_static(APPLIED), Some(index));
        self.ops.iter().cloned().chain([applied])
    }
}

fn value(random: &mut Random, is_uniform: bool) -> Bytes {
    let bytes = match random.below(20) {
        _ if is_uniform => 100,
        0 => 1_000 + random.below(700),
        1..4 => 64 + random.below(400),
        _ => random.below(64),
    };
    let mut value = vec![random.u64() as u8; bytes as usize];
    if is_uniform || random.chance(30) {
        random.fill(&mut value);
    }
    value.into()
}
