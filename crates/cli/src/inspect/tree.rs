//! The engine's files: tables, blob files, manifests, whole directories.

use std::path::Path;

use anyhow::Result;
use holdfast_env::Disk;
use holdfast_lsm::inspect::{
    self, InspectedFile, InspectedManifest, InspectedRecord, InspectedTable, InspectedValue,
    Problem, Section,
};
use serde_json::{Value, json};

use super::Wish;
use super::document::{Document, List};
use crate::output::readable;

/// Bytes of a key or value that are shown.
const SHOWN_BYTES_MAX: usize = 64;

/// The beginning of `bytes`, escaped, with the length of what is left out.
pub fn shown(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_BYTES_MAX) {
        Some(start) if bytes.len() > SHOWN_BYTES_MAX => {
            format!("{}… ({} bytes)", start.escape_ascii(), bytes.len())
        }
        _ => readable(bytes),
    }
}

/// One table.
pub fn table(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    let heads = ["family", "key", "sequence", "ordinal", "value"];
    let mut records = List::new("records", &heads);
    let found = inspect::table(disk, path, wish.verify || wish.dump, &mut |record| {
        if !wish.dump || records.len() >= wish.limit {
            return false;
        }
        records.row(row(&record));
        true
    })?;
    document.part(path, "table");
    document.fact("bytes", found.bytes);
    document.fact("birth", format!("{:032x}", found.birth));
    document.fact("watermark", found.floor);
    document.fact("garbage records", found.garbage);
    document.fact("span epoch", found.span_epoch);
    document.fact("range tombstones", found.range_tombstones);
    document.list(families(&found));
    document.list(sizes(&found));
    document.list(sections(&found.sections));
    document.list(records);
    problems(&found.problems, document);
    Ok(())
}

fn row(record: &InspectedRecord) -> Vec<Value> {
    let value = match &record.value {
        InspectedValue::Tombstone => "(deleted)".to_owned(),
        InspectedValue::Inline(value) => shown(value),
        InspectedValue::Blob { file, bytes } => format!("({bytes} bytes in blob file {file})"),
    };
    vec![
        json!(record.family.name()),
        json!(shown(&record.key)),
        json!(record.seq),
        json!(record.ordinal),
        json!(value),
    ]
}

fn families(table: &InspectedTable) -> List {
    let heads = [
        "family",
        "blocks",
        "records",
        "tombstones",
        "raw bytes",
        "sequence min",
        "sequence max",
        "key min",
        "key max",
    ];
    let mut list = List::new("families", &heads);
    for f in &table.families {
        list.row(vec![
            json!(f.family.name()),
            json!(f.blocks),
            json!(f.records),
            json!(f.tombstones),
            json!(f.raw_bytes),
            json!(f.seqs.0),
            json!(f.seqs.1),
            json!(shown(&f.keys.0)),
            json!(shown(&f.keys.1)),
        ]);
    }
    list
}

fn sizes(table: &InspectedTable) -> List {
    let mut list = List::new("value sizes", &["below bytes", "records"]);
    for (place, count) in table.value_sizes.iter().enumerate().filter(|(_, count)| **count > 0) {
        list.row(vec![json!(1_u64 << place), json!(count)]);
    }
    list
}

fn sections(sections: &[Section]) -> List {
    let mut list = List::new("sections", &["section", "offset", "bytes", "checksum"]);
    for section in sections {
        let checked = if section.is_checked { "ok" } else { "not read" };
        list.row(vec![
            json!(section.name),
            json!(section.offset),
            json!(section.bytes),
            json!(checked),
        ]);
    }
    list
}

fn problems(problems: &[Problem], document: &mut Document) {
    for problem in problems {
        document.problem(&problem.path, problem.offset, &problem.what);
    }
}

/// One manifest.
pub fn manifest(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    let found = inspect::manifest(disk, path)?;
    document.part(path, "manifest");
    state(&found, wish, document);
    problems(&found.problems, document);
    Ok(())
}

fn state(found: &InspectedManifest, wish: Wish, document: &mut Document) {
    document.fact("bytes", found.bytes);
    document.fact("records", found.edits.len());
    document.fact("revision", found.point.revision.0);
    document.fact("applied index", found.point.index.0);
    document.fact("floor", found.floor);
    document.fact("torn tail", found.is_torn);
    let mut files = List::new("files", &["level", "number", "bytes", "birth", "checksum"]);
    for file in &found.files {
        files.row(vec![
            json!(level(file)),
            json!(file.number),
            json!(file.bytes),
            json!(format!("{:032x}", file.birth)),
            json!(format!("{:016x}", file.checksum)),
        ]);
    }
    document.list(files);
    let heads = ["offset", "bytes", "revision", "applied", "added", "removed"];
    let mut edits = List::new("edits", &heads);
    for edit in found.edits.iter().filter(|_| wish.dump).take(wish.limit) {
        let added: Vec<_> = edit.added.iter().map(|file| file.number.to_string()).collect();
        let removed: Vec<_> = edit.removed.iter().map(u64::to_string).collect();
        edits.row(vec![
            json!(edit.offset),
            json!(edit.bytes),
            json!(edit.point.revision.0),
            json!(edit.point.index.0),
            json!(added.join(" ")),
            json!(removed.join(" ")),
        ]);
    }
    document.list(edits);
}

fn level(file: &InspectedFile) -> String {
    file.level.map_or_else(|| "blob".to_owned(), |level| level.to_string())
}

/// One blob file.
pub fn blob(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    let found = inspect::blob(disk, path, wish.verify || wish.dump)?;
    document.part(path, "blob file");
    document.fact("bytes", found.bytes);
    document.fact("birth", format!("{:032x}", found.birth));
    document.fact("live bytes", found.live_bytes);
    if wish.verify {
        // Only tables know where values begin: the rest is not checked, which is to be seen.
        let checked: u64 = found.sections.iter().map(|section| section.bytes).sum();
        document.fact("unchecked bytes", found.bytes.saturating_sub(checked));
    }
    document.list(sections(&found.sections));
    problems(&found.problems, document);
    Ok(())
}

/// An engine's directory.
pub fn directory(disk: &dyn Disk, path: &Path, wish: Wish, document: &mut Document) -> Result<()> {
    let found = inspect::directory(disk, path, wish.verify)?;
    document.part(path, "engine");
    document.fact("generation", found.generation);
    state(&found.manifest, wish, document);
    let heads = ["level", "number", "bytes", "records", "tombstones", "key min", "key max"];
    let mut tables = List::new("tables", &heads);
    for (file, table) in &found.tables {
        let (first, last) = (table.families.first(), table.families.last());
        tables.row(vec![
            json!(level(file)),
            json!(file.number),
            json!(file.bytes),
            json!(table.families.iter().map(|f| f.records).sum::<u64>()),
            json!(table.families.iter().map(|f| f.tombstones).sum::<u64>()),
            json!(first.map(|f| format!("{}/{}", f.family.name(), shown(&f.keys.0)))),
            json!(last.map(|f| format!("{}/{}", f.family.name(), shown(&f.keys.1)))),
        ]);
    }
    document.list(tables);
    let mut blobs = List::new("blob files", &["number", "bytes", "live bytes"]);
    for (file, _) in &found.blobs {
        let used = |table: &InspectedTable| {
            let mine = table.blobs.iter().filter(|(number, _)| *number == file.number);
            mine.map(|(_, bytes)| bytes).sum::<u64>()
        };
        let live: u64 = found.tables.iter().map(|(_, table)| used(table)).sum();
        blobs.row(vec![json!(file.number), json!(file.bytes), json!(live)]);
    }
    document.list(blobs);
    let mut strays = List::new("strays", &["file"]);
    for path in &found.strays {
        strays.row(vec![json!(path.display().to_string())]);
    }
    document.list(strays);
    problems(&found.problems, document);
    if wish.dump {
        let generation = path.join(format!("gen-{:010}", found.generation));
        for (file, _) in &found.tables {
            table(disk, &generation.join(format!("{:010}.tbl", file.number)), wish, document)?;
        }
    }
    Ok(())
}
