//! What is done to disks.
//!
//! A machine may lose whatever it has, but not the memory of what it promised: a journal without
//! its newest records, and nothing to show for it, would let a quorum forget what was
//! acknowledged. So the newest segment of a journal is spared from silent damage, and syncs lie
//! about engines only.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_env::Disk;
use holdfast_env::sim::{Effect, Fault, FaultId, Operation, Random, SimDisk};

use super::faults::FaultKind;

/// The data directory of a node.
pub(super) const DATA: &str = "/data";
/// A fault begins within so many calls that match.
const CALLS_MAX: u64 = 40;
/// A fault strikes at most so many calls.
const STRIKES_MAX: u64 = 3;
/// A write of more bytes is large: it spans several blocks.
const LARGE_BYTES: usize = 4_096;
/// So many large writes pass at most before one is torn.
const LARGE_WRITES_MAX: u64 = 8;
/// Longest run of bad sectors, bytes.
const BAD_BYTES_MAX: u64 = 4_096;
/// Room that a full disk still has, bytes.
const ROOM_MAX: u64 = 64 << 10;

/// A fault that calls have to meet.
pub(super) struct Planted {
    what: String,
    disk: SimDisk,
    how: How,
}

enum How {
    /// Calls that match fail.
    Injected(FaultId),
    /// There is little room; so many calls had been refused for that before.
    Full(u64),
}

impl fmt::Debug for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Planted {
    /// Takes the fault away; whether any call met it.
    pub(super) fn end(self) -> bool {
        match self.how {
            How::Injected(id) => {
                self.disk.remove_fault(id);
                self.disk.fault_struck(id) > 0
            }
            How::Full(before) => {
                self.disk.set_capacity(None);
                self.disk.counters().refused_full > before
            }
        }
    }
}

/// Whether a file is part of the journal.
fn is_journal(path: &Path) -> bool {
    path.starts_with(Path::new(DATA).join("journal"))
}

/// Plants a fault of `kind`, unless the disk cannot have it now.
pub(super) fn plant(kind: FaultKind, disk: &SimDisk, random: &mut Random) -> Option<Planted> {
    let fault = match kind {
        FaultKind::DiskError => {
            use Operation::{Create, Read, Rename, Resize, SyncDir, Write};
            let operations = [Read, Read, Write, Write, Create, Rename, Resize, SyncDir];
            let operation = operations[random.below(operations.len() as u64) as usize];
            let is_sync = operation == SyncDir;
            Fault::new(operation, if is_sync { Effect::SyncFails } else { Effect::Eio })
        }
        FaultKind::DiskFull => match random.below(3) {
            0 => Fault::new(Operation::Write, Effect::Enospc),
            1 => {
                let bytes = random.below(4_096) as usize;
                Fault::new(Operation::Write, Effect::ShortWrite { bytes })
            }
            _ => {
                let space = disk.space(Path::new(DATA)).ok()?;
                let used = space.total_bytes.saturating_sub(space.available_bytes);
                let room = random.below(ROOM_MAX);
                disk.set_capacity(Some(used + room));
                let what = format!("{room} bytes of room");
                let how = How::Full(disk.counters().refused_full);
                return Some(Planted { what, disk: disk.clone(), how });
            }
        },
        FaultKind::SyncFails => Fault::new(Operation::Sync, Effect::SyncFails).times(1),
        FaultKind::StrayWrite => {
            let distance = 512 << random.below(5);
            let effects = [Effect::PhantomWrite, Effect::MisdirectedWrite { distance }];
            let effect = effects[random.below(2) as usize];
            Fault::new(Operation::Write, effect).on(|path| !is_journal(path))
        }
        FaultKind::SyncLies => {
            let fault = Fault::new(Operation::Sync, Effect::SyncLies).on(|path| !is_journal(path));
            return Some(planted(disk, fault.forever()));
        }
        _ => return None,
    };
    let (after, times) = (random.below(CALLS_MAX), 1 + random.below(STRIKES_MAX));
    let times = if kind == FaultKind::SyncFails { 1 } else { times };
    Some(planted(disk, fault.after(after).times(times)))
}

/// Has the power go during one of the next large writes of the journal, which is torn. Whether it
/// has gone, for the caller to look at.
pub(super) fn tear(disk: &SimDisk, random: &mut Random) -> Arc<AtomicBool> {
    let left = AtomicU64::new(random.below(LARGE_WRITES_MAX));
    let is_cut = Arc::<AtomicBool>::default();
    let cut = is_cut.clone();
    disk.watch(move |disk, call| {
        let is_large = call.operation == Operation::Write && call.bytes > LARGE_BYTES;
        if !is_large || !is_journal(call.path) || cut.load(Ordering::Relaxed) {
            return;
        }
        if left.load(Ordering::Relaxed) > 0 {
            left.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        // The call that is announced is the next to change the disk.
        disk.cut_power_at(Some(disk.counters().mutations + 1));
        cut.store(true, Ordering::Relaxed);
    });
    is_cut
}

/// Has a write of a snapshot that is being received fail, after so many of them.
pub(super) fn refuse_snapshot(disk: &SimDisk, after: u64) -> Planted {
    planted(disk, Fault::new(Operation::Write, Effect::Eio).on(is_staged).after(after))
}

/// Counts, from now on, the writes of snapshots that are being received.
pub(super) fn count_staged(disk: &SimDisk) -> Arc<AtomicU64> {
    let count = Arc::<AtomicU64>::default();
    let counted = count.clone();
    disk.watch(move |_, call| {
        if call.operation == Operation::Write && is_staged(call.path) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    count
}

/// Whether a file belongs to a snapshot that is being received.
fn is_staged(path: &Path) -> bool {
    let directory = path.parent().and_then(Path::file_name);
    directory.is_some_and(|name| name.to_string_lossy().contains(STAGING))
}

fn planted(disk: &SimDisk, fault: Fault) -> Planted {
    let what = format!("{fault:?}");
    Planted { what, disk: disk.clone(), how: How::Injected(disk.inject(fault)) }
}

/// Damages a file; which, and what of it, for the trace. None: there is nothing to damage.
pub(super) fn damage(kind: FaultKind, disk: &SimDisk, random: &mut Random) -> Option<String> {
    let files = disk.files(Path::new(DATA)).ok()?;
    let newest = files.keys().filter(|path| is_segment(path)).max().cloned();
    let mut files: Vec<(PathBuf, u64)> = files
        .into_iter()
        .map(|(path, content)| (path, content.len() as u64))
        .filter(|(path, length)| *length > 0 && Some(path) != newest.as_ref())
        .collect();
    let chosen = random.below(files.len().max(1) as u64) as usize;
    let (path, length) = files.drain(..).nth(chosen)?;
    let offset = random.below(length);
    let done = match kind {
        FaultKind::BitFlip => {
            let bit = random.below(8) as u8;
            disk.flip_bit(&path, offset, bit).map(|()| format!("bit {bit} of byte {offset}"))
        }
        _ => {
            let bytes = 1 + random.below(BAD_BYTES_MAX.min(length - offset));
            let marked = disk.mark_bad(&path, offset, bytes);
            marked.map(|()| format!("{bytes} bytes from {offset}"))
        }
    };
    done.ok().map(|what| format!("{what} of {}", path.display()))
}

fn is_segment(path: &Path) -> bool {
    is_journal(path) && path.extension().is_some_and(|extension| extension == SEGMENT)
}

/// In the name of a directory where a snapshot is received.
const STAGING: &str = ".staging";
/// Extension of a segment of the journal.
const SEGMENT: &str = "journal";
