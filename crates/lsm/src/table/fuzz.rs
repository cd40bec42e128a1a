//! No bytes make a decoder panic, loop or allocate beyond what it was given.
//!
//! Checksums keep damage away from the decoders; these tests are for the day they do not.

use holdfast_env::sim::Target;
use proptest::prelude::*;

use crate::blob::BlobRef;
use crate::checksum;
use crate::fuzz::put;
use crate::manifest::Edit;
use crate::table::block::{Block, Found, Stored};
use crate::table::builder::BlockBuilder;
use crate::table::filter::Filter;
use crate::table::format::{FOOTER_BYTES, Footer, Handle, load_block};
use crate::table::index::Index;
use crate::table::partition::{Partition, PartitionBuilder};
use crate::table::properties::Properties;
use crate::table::tombstones::TableTombstones;
use crate::table::top::{Top, TopBuilder};
use crate::table::walk::BlockWalk;
use crate::tombstone::{Fragments, RangeTombstone};
use crate::types::Family;

/// More records than any block here can hold.
const RECORDS_MAX: usize = 100_000;

/// Searches and walks a block both ways.
fn use_block(content: &[u8]) {
    let Ok(block) = Block::new(content.into()) else { return };
    for key in [&b""[..], b"key-07", b"zzz"] {
        if let Some(Found::Record(record)) = block.find(key, 50) {
            let _ = block.stored(&record);
            assert!(block.clone().into_bytes().slice(record.value).len() <= content.len());
        }
    }
    let (mut forward, mut backward) = (BlockWalk::new(), BlockWalk::new());
    if forward.enter_forward(block.clone(), None).is_some() {
        let steps = (0..RECORDS_MAX).take_while(|_| forward.forward() == Some(true)).count();
        assert!(steps < RECORDS_MAX, "the walk never ends");
    }
    if backward.enter_backward(block, None).is_some() {
        let steps = (0..RECORDS_MAX).take_while(|_| backward.backward() == Some(true)).count();
        assert!(steps < RECORDS_MAX, "the walk back never ends");
    }
}

/// Uses a partition of blocks; whether it was taken for one.
fn use_partition(bytes: &[u8]) -> bool {
    let Ok(partition) = Partition::decode(bytes, 3, 0..1_000) else { return false };
    for number in partition.seek(b"key")..partition.blocks().end {
        assert!(partition.block(number).is_some());
    }
    true
}

/// Birth id of every file here.
const BIRTH: u128 = 7;
/// Length of the file whose footer is read.
const FILE_BYTES: u64 = 2_000;

/// Uses a footer whose checksum is right, whatever else is not.
fn use_footer(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let covered = FOOTER_BYTES - 16;
    let offset = FILE_BYTES - FOOTER_BYTES as u64;
    let sum = checksum::at(BIRTH, offset, sealed.get(..covered).unwrap_or_default());
    put(&mut sealed, covered, sum);
    Footer::decode(&sealed, FILE_BYTES, BIRTH).is_ok()
}

/// Uses a stored block whose checksum is right.
fn use_stored_block(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let covered = sealed.len().saturating_sub(8);
    let sum = checksum::at(BIRTH, 40, sealed.get(..covered).unwrap_or_default());
    put(&mut sealed, covered, sum);
    load_block(&sealed, BIRTH, 40, &mut Vec::new()).is_ok()
}

/// The decoders of a table by name; each says whether it took the bytes for what it knows.
pub(crate) const TARGETS: [Target; 10] = [
    ("block", |bytes| {
        use_block(bytes);
        Block::new(bytes.into()).is_ok()
    }),
    ("filter", |bytes| Filter::decode(bytes).map(|filter| filter.may_contain(7)).is_ok()),
    ("index", |bytes| Index::decode(bytes, 0..1_000).is_ok()),
    ("top", |bytes| Top::decode(bytes, 1_400).is_ok()),
    ("properties", |bytes| Properties::decode(bytes).is_ok()),
    ("footer", use_footer),
    ("stored_block", use_stored_block),
    ("tombstones", |bytes| {
        TableTombstones::decode(bytes).map(|found| found.bounds().unwrap()).is_ok()
    }),
    ("blob_reference", |bytes| BlobRef::decode(bytes).is_some()),
    ("partition", use_partition),
];

fn use_all(bytes: &[u8]) {
    for (_, target) in TARGETS {
        target(bytes);
    }
    let _ = Edit::decode(bytes);
}

fn a_block() -> Vec<u8> {
    let mut builder = BlockBuilder::new(3);
    for n in 0..20u32 {
        let (key, value) = (format!("key-{n:02}"), vec![n as u8; n as usize]);
        let handle = Handle { offset: 40, bytes: 70 };
        let value = match n % 3 {
            0 => Stored::Tombstone,
            1 => Stored::Inline(&value),
            _ => Stored::Blob(BlobRef { file: 1, handle, raw: 60, expires_at: None }),
        };
        builder.add(key.as_bytes(), u64::from(n) + 30, n, value);
    }
    builder.finish().to_vec()
}

fn a_partition_and_top() -> (Vec<u8>, Vec<u8>) {
    let mut builder = PartitionBuilder::default();
    for n in 0..10u32 {
        builder.add_key(u64::from(n) << 40);
        let handle = Handle { offset: u64::from(n) * 100, bytes: 100 };
        builder.add_block(handle, (1, 9), format!("key-{n}").as_bytes());
    }
    let built = builder.finish(10).unwrap();
    let mut top = TopBuilder::default();
    top.push(&built, Handle { offset: 1_000, bytes: 400 }, 1_000);
    (built.content.clone(), top.encode())
}

fn some_tombstones() -> TableTombstones {
    let piece = |start: &'static str, end: &'static str, seq| {
        let (start, end) = (start.as_bytes().into(), end.as_bytes().into());
        RangeTombstone { start, end, seq, ordinal: 3 }
    };
    let data = Fragments::of(vec![piece("a", "k", 5), piece("c", "z", 9)], 0);
    let lease = Fragments::of(vec![piece("b", "d", 7)], 0);
    TableTombstones::of(vec![(Family::Data, data), (Family::Lease, lease)])
}

/// Whole contents of every kind.
fn contents() -> Vec<Vec<u8>> {
    let (partition, top) = a_partition_and_top();
    let mut properties = Properties::default();
    properties.count_blob(3, 70);
    let edit = Edit { is_base: true, removed_blobs: vec![1, 2], ..Edit::default() };
    let tombstones = some_tombstones().encode();
    vec![a_block(), partition, top, properties.encode(), edit.encode(), tombstones]
}

#[test]
fn whole_contents_are_read() {
    let (partition, top) = a_partition_and_top();
    assert_eq!(Partition::decode(&partition, 3, 0..1_000).unwrap().blocks(), 3..13);
    assert_eq!(Top::decode(&top, 1_400).unwrap().0.blocks(0), (0..10, 0..1_000));
    assert!(Top::decode(&top, 1_401).is_err(), "a gap behind the partitions");
    assert!(Partition::decode(&partition, 3, 0..999).is_err(), "a gap behind the blocks");
    let tombstones = some_tombstones();
    assert_eq!(TableTombstones::decode(&tombstones.encode()), Ok(tombstones));
    let block = Block::new(a_block().into()).unwrap();
    assert!(matches!(block.find(b"key-04", 50), Some(Found::Record(record)) if record.seq == 34));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 2_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_refused_or_read_without_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        use_all(&bytes);
    }

    #[test]
    fn contents_with_any_bytes_changed_are_refused_or_read_without_harm(
        which in 0..6usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = contents().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_all(&bytes);
    }
}
