//! Bytes of a snapshot that later builds must be able to read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use holdfast_env::Disk;
use holdfast_env::real::RealDisk;
use holdfast_etcd::archive::{Archive, ArchivedLease, Head, Part, Writer};
use holdfast_wire::etcd::mvccpb::KeyValue;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archive-v1.txt")
}

fn archive() -> Archive {
    Archive {
        head: Head { cluster: vec![7; 16].into(), keyspace: "etcd".into(), revision: 9 },
        entries: vec![KeyValue {
            key: "key".into(),
            value: "value".into(),
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            lease: -4,
        }],
        leases: vec![ArchivedLease { id: -4, ttl_ms: 60_000 }],
    }
}

/// With `BLESS=1` in the environment the golden file is written.
#[test]
fn an_archive_keeps_its_bytes() {
    let Archive { head, entries, leases } = archive();
    let mut writer = Writer::new(head);
    writer.part(Part { entries, leases });
    writer.end();
    let bytes = writer.take(usize::MAX);
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    if std::env::var_os("BLESS").is_some() {
        RealDisk.create_dir_all(golden().parent().unwrap()).unwrap();
        RealDisk.replace(&golden(), text.as_bytes()).unwrap();
    }
    let expected = String::from_utf8(RealDisk.read(&golden()).unwrap().to_vec()).unwrap();
    assert_eq!(text, expected, "older snapshots could not be read");
    assert_eq!(Archive::read(bytes), Ok(archive()));
}
