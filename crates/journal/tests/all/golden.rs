//! The format on disk is the one that was released.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_env::sim::{SimClock, SimDisk, SimTime};
use holdfast_env::{Clock, Disk, Entropy, OpenMode};
use holdfast_journal::{BatchKind, Journal, RecordKind, SegmentInspector};

use crate::rig::{DIR, at, entries, entry, group, ignore, settle, small};

const NAME: &str = "0000000000000001.journal";
const GOLDEN: &[u8] = include_bytes!("../golden/segment-v1.bin");
const WITNESS_NAME: &str = "witness";
const WITNESS: &[u8] = include_bytes!("../golden/witness-v1.bin");

/// Always the same bytes, so that ids in the file are known.
#[derive(Debug)]
struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0x5a);
    }
}

/// The file `name` of a journal whose segment has a record of every kind and a batch of every
/// kind, up to its last byte in use.
fn written(name: &str) -> Vec<u8> {
    let disk = Arc::new(SimDisk::new());
    let clock = Arc::new(SimClock::new(SimTime::new()));
    let (journal, mut writer, _) = Journal::open(
        Arc::clone(&disk) as Arc<dyn Disk>,
        Arc::new(Fixed),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Path::new(DIR),
        small(),
    )
    .unwrap();
    for number in 1..=3 {
        let descriptor = Bytes::from(format!("descriptor {number}"));
        journal.create_group(group(number), descriptor, ignore()).unwrap();
    }
    settle(&mut writer);
    journal.append(group(1), entries(1, 1..4, 20), ignore()).unwrap();
    journal.append(group(2), vec![entry(7, 41, b"")], ignore()).unwrap();
    journal.save_vote(group(1), Bytes::from_static(b"a vote"), ignore()).unwrap();
    journal.truncate_after(group(1), Some(2), ignore()).unwrap();
    journal.destroy_group(group(3), ignore()).unwrap();
    journal.purge(group(1), at(1, 1)).unwrap();
    journal.save_committed(group(1), at(1, 2)).unwrap();
    settle(&mut writer);
    clock.advance(std::time::Duration::from_millis(10));
    settle(&mut writer);
    let mut bytes = disk.read(&Path::new(DIR).join(name)).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(used + 1);
    bytes
}

/// A disk with the golden files on it.
fn golden_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (name, bytes, length) in
        [(NAME, GOLDEN, small().segment_bytes), (WITNESS_NAME, WITNESS, 2 * 4096)]
    {
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::CreateNew).unwrap();
        file.allocate(length).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync_all().unwrap();
    }
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk
}

#[test]
fn a_segment_is_written_byte_for_byte_as_released() {
    assert!(written(NAME) == GOLDEN, "the format changed: it needs a new version and a new file");
}

#[test]
fn a_witness_is_written_byte_for_byte_as_released() {
    assert!(written(WITNESS_NAME) == WITNESS, "the format changed, see above");
}

#[test]
fn a_released_segment_is_understood() {
    let disk: Arc<dyn Disk> = Arc::new(golden_disk());
    let clock = Arc::new(SimClock::new(SimTime::new()));
    let (journal, _, recovery) =
        Journal::open(disk, Arc::new(Fixed), clock, Path::new(DIR), small()).unwrap();
    assert_eq!(recovery.hit, []);
    assert!(!recovery.torn_tail);
    assert_eq!(recovery.damage, []);
    let [one, two] = recovery.groups.as_slice() else { panic!("two groups") };
    assert_eq!((one.group, two.group), (group(1), group(2)));
    assert_eq!(one.descriptor, "descriptor 1");
    assert_eq!(one.vote.as_deref(), Some(&b"a vote"[..]));
    assert_eq!((one.purged, one.committed), (Some(at(1, 1)), Some(at(1, 2))));
    assert_eq!(journal.read(group(1), 2..9, 999).unwrap(), entries(1, 2..3, 20));
    assert_eq!(journal.read(group(2), 41..42, 999).unwrap(), vec![entry(7, 41, b"")]);
}

#[test]
fn a_released_segment_can_be_inspected() {
    let disk = golden_disk();
    let inspector = SegmentInspector::open(&disk, &Path::new(DIR).join(NAME)).unwrap();
    assert_eq!(inspector.header().sequence, 1);
    let batches: Vec<_> = inspector.collect();
    assert!(batches.iter().all(|batch| batch.whole && batch.linked && batch.oldest == 1));
    let kinds: Vec<_> = batches.iter().map(|batch| batch.kind).collect();
    use BatchKind::{Filler, Mark, Records};
    assert_eq!(kinds, [Mark, Records, Records, Filler, Mark]);
    let mut found: Vec<_> = batches.iter().flat_map(|b| &b.records).map(|r| r.kind).collect();
    found.sort();
    found.dedup();
    use RecordKind::{Committed, Created, Destroyed, Entry, Purge, Truncate, Vote};
    assert_eq!(found, [Entry, Vote, Truncate, Purge, Committed, Created, Destroyed]);
}
