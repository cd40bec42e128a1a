//! Every decoder of the journal on its corpus, and on what is near to it.
//!
//! Checksums are made right again after a change: they would keep it away from what is to be
//! tested.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use holdfast_env::sim::{Corpus, SimClock, SimDisk, SimEntropy, SimTime, Target};
use holdfast_env::{Disk, OpenMode};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchKind, parse_tails};
use crate::inspect::SegmentInspector;
use crate::journal::Journal;
use crate::options::JournalOptions;
use crate::record;
use crate::segment::{FileName, Segment, SegmentHeader};
use crate::walk::parse_records;
use crate::witness::Testimony;

/// Seed of every checksum here.
const SEED: u64 = 7;
const SEGMENT_BYTES: u64 = 32 * 1024;

const TARGETS: [Target; 7] = [
    ("record", use_record),
    ("records_of_batch", use_records),
    ("batch_header", use_batch_header),
    ("mark", use_mark),
    ("segment_header", use_segment_header),
    ("segment_file", use_segment_file),
    ("witness", use_witness),
];

/// Puts `sum` at `at`, if there is room.
fn put(bytes: &mut [u8], at: usize, sum: u64) {
    if let Some(field) = bytes.get_mut(at..at + 8) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Makes the checksum of the record at `at` right; where the next one begins.
fn seal_record(bytes: &mut [u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let length = record::claimed_bytes(rest)?;
    let payload = u32::from_le_bytes(*rest.get(8..12)?.first_chunk()?) as usize;
    let checked = rest.get(..record::RECORD_HEADER_BYTES + payload)?;
    let sum = record::checksum(SEED.wrapping_add(at as u64), checked);
    put(bytes, at, sum);
    Some(at + length)
}

fn use_record(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let _ = seal_record(&mut sealed, 0);
    record::parse(&sealed, SEED).is_some()
}

fn a_segment(disk: &SimDisk) -> Segment {
    let path = FileName::InUse(1).path(Path::new("/"));
    let file = disk.open(&path, OpenMode::CreateOrOpen).unwrap();
    let readers = AtomicUsize::new(0);
    Segment { sequence: 1, path, file, bytes: SEGMENT_BYTES, seed: SEED, readers }
}

fn use_records(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let (mut at, mut count) = (0, 0);
    while let Some(next) = seal_record(&mut sealed, at) {
        (at, count) = (next, count + 1);
    }
    let disk = SimDisk::new();
    let (records, is_whole) = parse_records(&sealed, &a_segment(&disk), 0, count);
    assert!(records.len() <= count as usize);
    is_whole && count > 0
}

fn use_batch_header(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    if let Some(covered) = sealed.get(8..BATCH_HEADER_BYTES) {
        let sum = xxh3_64_with_seed(covered, SEED);
        put(&mut sealed, 0, sum);
    }
    let Some((header, _)) = BatchHeader::parse(&sealed, SEED) else { return false };
    assert!(header.batch_bytes() >= u64::from(header.body_bytes));
    header.end_sequence() >= header.first_sequence
}

fn use_mark(bytes: &[u8]) -> bool {
    let header = BatchHeader {
        kind: BatchKind::Mark,
        run: 1,
        link: 1,
        number: 1,
        claim: 1,
        first_sequence: 1,
        body_bytes: bytes.len() as u32,
        records: 0,
        body_checksum: xxh3_64_with_seed(bytes, SEED),
        oldest: 1,
    };
    parse_tails(&header, bytes, SEED).is_some_and(|tails| !tails.is_empty())
}

fn use_segment_header(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let sum = xxh3_64(sealed.get(..56).unwrap_or_default());
    put(&mut sealed, 56, sum);
    let disk = SimDisk::new();
    let segment = a_segment(&disk);
    segment.file.write_all_at(&sealed, 0).unwrap();
    SegmentHeader::read(segment.file.as_ref()).is_some()
}

fn use_witness(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let sum = xxh3_64_with_seed(sealed.get(..56).unwrap_or_default(), SEED);
    put(&mut sealed, 56, sum);
    let Some(said) = Testimony::parse(&sealed, SEED) else { return false };
    assert_eq!(Testimony::parse(&said.encode(SEED), SEED), Some(said));
    true
}

/// Opens a journal whose only segment is this, and looks at it as people do.
fn use_segment_file(bytes: &[u8]) -> bool {
    let disk = SimDisk::new();
    let dir = Path::new("/journal");
    disk.create_dir_all(dir).unwrap();
    let path = FileName::InUse(1).path(dir);
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_len(SEGMENT_BYTES).unwrap();
    if let Ok(inspector) = SegmentInspector::open(&disk, &path) {
        assert!(inspector.count() <= SEGMENT_BYTES as usize / 512);
    }
    let options = JournalOptions {
        segment_bytes: SEGMENT_BYTES,
        limit_bytes: 8 * SEGMENT_BYTES,
        queue_bytes_max: 16 * 1024,
        ..JournalOptions::default()
    };
    let (clock, entropy) = (SimClock::new(SimTime::new()), SimEntropy::new(1));
    let opened = Journal::open(Arc::new(disk), Arc::new(entropy), Arc::new(clock), dir, options);
    opened.is_ok_and(|(_, _, recovery)| !recovery.groups.is_empty())
}

fn corpus() -> Corpus {
    Corpus::of_crate(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_decoder_takes_its_corpus_and_what_is_near_to_it_without_harm() {
    let tried = corpus().try_all(TARGETS);
    println!("\n{tried} decoders tried");
}

#[test]
fn every_decoder_still_knows_something_in_its_corpus() {
    let unknown = corpus().unknown(TARGETS);
    assert!(unknown.is_empty(), "the format changed, the corpus did not: {unknown:?}");
}
