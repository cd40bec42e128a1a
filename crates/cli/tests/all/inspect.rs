//! `holdfast inspect` on files of every kind, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_env::Disk;
use holdfast_env::real::RealDisk;
use serde_json::Value;
use tempfile::TempDir;

const TABLE: &str = "ranges/1-1/gen-0000000001/0000000001.tbl";
const BLOB: &str = "ranges/1-1/gen-0000000001/0000000002.blob";
const MANIFEST: &str = "ranges/1-1/gen-0000000001/MANIFEST";
const SEGMENT: &str = "journal/0000000000000001.journal";
const WITNESS: &str = "journal/witness";

/// A data directory made of the files that other crates keep as examples of their formats.
fn data() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let golden = |from: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(from);
    let copy = |from: &str, to: &str| {
        let to = dir.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden(from), to).unwrap();
    };
    copy("lsm/tests/golden/v1/CURRENT", "ranges/1-1/CURRENT");
    copy("lsm/tests/golden/v1/gen-0000000001-0000000001.tbl", TABLE);
    copy("lsm/tests/golden/v1/gen-0000000001-0000000002.blob", BLOB);
    copy("lsm/tests/golden/v1/gen-0000000001-MANIFEST", MANIFEST);
    copy("journal/tests/golden/segment-v1.bin", SEGMENT);
    copy("journal/tests/golden/witness-v1.bin", WITNESS);
    // A segment is as long as its header says.
    let segment = fs::OpenOptions::new().write(true).open(dir.path().join(SEGMENT)).unwrap();
    segment.set_len(32 * 1024).unwrap();
    dir
}

fn inspect(what: &str, path: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("inspect").arg(what).arg(path).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Every file below `dir` with its content.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn whole_files_of_every_kind_are_shown_verified_and_left_as_they_are() {
    let dir = data();
    let before = content(dir.path());
    let cases = [
        ("table", TABLE, "footer"),
        ("table", TABLE, "user/0"),
        ("manifest", MANIFEST, "edits"),
        ("blob", BLOB, "live bytes"),
        ("journal", SEGMENT, "descriptor 1"),
        ("journal", "journal", "segments"),
        ("journal", "journal", "records witnessed"),
        ("dir", "ranges/1-1", "blob files"),
        ("dir", "", "groups"),
    ];
    for (what, path, shown) in cases {
        let path = dir.path().join(path);
        let output = inspect(what, &path, &["--verify", "--dump"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{what} {said} {output:?}");
        assert!(said.contains(shown), "{what}: no {shown} in {said}");
        assert!(said.contains("no damage found"), "{said}");
        let output = inspect(what, &path, &["--verify", "--json"]);
        let json: Value = serde_json::from_str(&text(&output)).unwrap();
        assert_eq!(json["problems"], Value::Array(Vec::new()));
        assert!(json["parts"].as_array().is_some_and(|parts| !parts.is_empty()), "{json}");
    }
    assert!(content(dir.path()) == before, "a file was written");
}

#[test]
fn damage_is_named_by_file_and_offset_and_ends_in_code_one() {
    for (name, step) in [(TABLE, 41), (BLOB, 53), (MANIFEST, 7)] {
        let dir = data();
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let mut noticed = 0;
        for at in (0..whole.len()).step_by(step) {
            // The reserved word of a manifest's header means nothing; a damaged last edit, here the
            // one behind the base, cannot be told from a torn one.
            if name == MANIFEST && ((12..16).contains(&at) || at >= 105) {
                continue;
            }
            let mut bad = whole.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            let output = inspect("dir", &dir.path().join("ranges/1-1"), &["--verify"]);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(1), "byte {at} of {name}: {said}");
            let line = said.lines().find(|line| line.starts_with("DAMAGED")).unwrap();
            assert!(line.contains(name.rsplit('/').next().unwrap()), "{line}");
            assert!(line.contains("at byte"), "{line}");
            noticed += 1;
        }
        assert!(noticed > 4, "{noticed} of {name}");
    }
}

#[test]
fn a_damaged_table_or_segment_is_found_without_its_directory() {
    let dir = data();
    for (what, name, at) in [("table", TABLE, 100), ("journal", SEGMENT, 8192 + 600)] {
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let output = inspect(what, &path, &["--verify"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let json = inspect(what, &path, &["--verify", "--json"]);
        let json: Value = serde_json::from_str(&text(&json)).unwrap();
        let problem = &json["problems"][0];
        assert_eq!(problem["file"].as_str(), path.to_str());
        assert!(problem["offset"].as_u64().is_some_and(|offset| offset <= at as u64), "{json}");
    }
    let journal = inspect("dir", dir.path(), &["--verify"]);
    assert_eq!(journal.status.code(), Some(1));
    assert!(text(&journal).contains(".journal at byte"), "{}", text(&journal));
}

#[test]
fn a_damaged_last_edit_of_a_manifest_shows_as_torn() {
    let dir = data();
    let path = dir.path().join(MANIFEST);
    let tail = |path: &Path| {
        let output = inspect("manifest", path, &["--verify", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let json: Value = serde_json::from_str(&text(&output)).unwrap();
        (json["parts"][0]["torn_tail"].as_bool(), json["parts"][0]["records"].as_u64())
    };
    assert_eq!(tail(&path), (Some(false), Some(2)));
    let mut bytes = fs::read(&path).unwrap();
    bytes[120] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(tail(&path), (Some(true), Some(1)));
}

#[test]
fn a_blob_file_is_verified_as_far_as_tables_beside_it_know_it() {
    let dir = data();
    let path = dir.path().join(BLOB);
    let verify = |code| {
        let output = inspect("blob", &path, &["--verify", "--json"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let json: Value = serde_json::from_str(&text(&output)).unwrap();
        json["parts"][0]["unchecked_bytes"].as_u64().unwrap()
    };
    let whole = fs::read(&path).unwrap();
    assert_eq!(verify(0), 0);
    let mut bad = whole.clone();
    bad[100] ^= 1;
    fs::write(&path, &bad).unwrap();
    verify(1);
    fs::remove_file(dir.path().join(TABLE)).unwrap();
    assert!(verify(0) > 100, "nobody knows where its values are, and that is said");
}

#[test]
fn a_segment_that_is_gone_is_missed_and_a_lost_witness_is_not() {
    let dir = data();
    let journal = dir.path().join("journal");
    fs::rename(dir.path().join(SEGMENT), journal.join("elsewhere")).unwrap();
    let output = inspect("journal", &journal, &["--verify"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output).contains("0000000000000001.journal at byte"), "{}", text(&output));
    fs::rename(journal.join("elsewhere"), dir.path().join(SEGMENT)).unwrap();
    fs::remove_file(dir.path().join(WITNESS)).unwrap();
    let output = inspect("journal", &journal, &["--verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains("witnessed"));
}

#[test]
fn what_a_node_holds_is_refused_and_read_only_without_a_verdict() {
    let dir = data();
    let lock = dir.path().join("LOCK");
    fs::write(&lock, "").unwrap();
    let held = RealDisk.lock(&lock).unwrap();
    for path in ["", TABLE, "journal"] {
        let path = dir.path().join(path);
        let what = if path.is_dir() { "dir" } else { "table" };
        let refused = inspect(what, &path, &[]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--live"));
        assert_eq!(inspect(what, &path, &["--live"]).status.code(), Some(0));
        assert_eq!(inspect(what, &path, &["--live", "--verify"]).status.code(), Some(2));
    }
    drop(held);
    // A program that another test was just starting may have inherited the lock for a moment.
    let verified = || inspect("dir", dir.path(), &["--verify"]).status.code() == Some(0);
    assert!((0..100).any(|_| verified()), "the lock was given back");
}

#[test]
fn no_more_is_shown_than_asked_for() {
    let dir = data();
    let output = inspect("table", &dir.path().join(TABLE), &["--dump", "--limit", "2", "--json"]);
    let json: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(json["parts"][0]["records"].as_array().map(Vec::len), Some(2));
    let missing = inspect("table", &dir.path().join("none"), &[]);
    assert_eq!(missing.status.code(), Some(2));
}
