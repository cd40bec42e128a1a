//! The bytes of one simulated file: what readers see, what is on the platter, and every state in
//! between that a power cut may leave.
//!
//! A page cache writes pages back whole and in any order, so the un-synced state of a file is not
//! a list of writes of which some happen: a sector on disk always equals the sector as it once was
//! in memory. Every page therefore keeps its last few un-synced *versions*; a crash picks one per
//! block. (The first design replayed a random subset of the writes. It produced sectors that
//! held the second half of a record without the first, which no disk does.)
//!
//! Lengths change in order, as metadata journals do it: a crash keeps a prefix of the changes.
//! What was cut off comes back only where the cut itself was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::random::Random;

/// Bytes per page of the simulated page cache: the coarse unit of write-back.
pub const PAGE_BYTES: u64 = 4_096;

/// Bytes per sector: the unit a disk writes atomically.
pub const SECTOR_BYTES: u64 = 512;

/// Un-synced versions remembered per page; the oldest is forgotten first.
const VERSIONS_MAX: usize = 4;

/// Un-synced lengths remembered per file; of two growths in a row the older is forgotten first.
const LENGTHS_MAX: usize = 16;

const PAGE: usize = PAGE_BYTES as usize;

/// `None` reads as zeros and costs nothing: preallocated files are mostly that.
type Page = Option<Arc<[u8; PAGE]>>;

#[derive(Clone, Debug)]
struct Version {
    page: Page,
    /// How many un-synced cuts of the file came before; it survives only together with them.
    cuts: usize,
    /// Whether the version is the work of a cut: then it survives exactly if the cut does.
    is_cut: bool,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    durable: Page,
    live: Page,
    versions: Vec<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Length {
    bytes: u64,
    is_cut: bool,
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    slots: BTreeMap<u64, Slot>,
    /// Pages with un-synced versions.
    dirty: BTreeSet<u64>,
    length: u64,
    length_durable: u64,
    lengths: Vec<Length>,
    /// Cuts among `lengths`.
    cuts: usize,
    /// Sectors that cannot be read until they are written again.
    bad: BTreeSet<u64>,
}

/// A read touched a latent bad sector.
#[derive(Debug)]
pub(super) struct BadSector;

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Reads what is there of `buffer.len()` bytes at `offset`.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, BadSector> {
        let available = self.length.saturating_sub(offset).min(buffer.len() as u64);
        if available == 0 {
            return Ok(0);
        }
        let sectors = offset / SECTOR_BYTES..=(offset + available - 1) / SECTOR_BYTES;
        if self.bad.range(sectors).next().is_some() {
            return Err(BadSector);
        }
        for (index, within, part) in pieces(offset, available as usize) {
            let target = &mut buffer[part];
            match self.slots.get(&index).and_then(|slot| slot.live.as_ref()) {
                Some(page) => target.copy_from_slice(&page[within..within + target.len()]),
                None => target.fill(0),
            }
        }
        Ok(available as usize)
    }

    /// Writes into the page cache.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            self.bad.remove(&sector);
        }
        for (index, within, part) in pieces(offset, bytes.len()) {
            let cuts = self.cuts;
            let slot = self.slots.entry(index).or_default();
            let mut page = slot.live.as_deref().copied().unwrap_or([0; PAGE]);
            page[within..within + part.len()].copy_from_slice(&bytes[part]);
            slot.push(Version { page: Some(Arc::new(page)), cuts, is_cut: false });
            self.dirty.insert(index);
        }
        if end > self.length {
            self.grow(end);
        }
    }

    /// Cuts the file, or grows it with zeros.
    pub(super) fn set_len(&mut self, length: u64) {
        if length > self.length {
            self.grow(length);
        } else if length < self.length {
            self.cut(length);
        }
    }

    fn grow(&mut self, length: u64) {
        self.length = length;
        self.lengths.push(Length { bytes: length, is_cut: false });
        if self.lengths.len() > LENGTHS_MAX {
            let older = self.lengths.windows(2).position(|w| !w[0].is_cut && !w[1].is_cut);
            if let Some(index) = older {
                self.lengths.remove(index);
            }
        }
    }

    fn cut(&mut self, length: u64) {
        self.length = length;
        self.lengths.push(Length { bytes: length, is_cut: true });
        self.cuts += 1;
        let (cuts, first) = (self.cuts, length / PAGE_BYTES);
        for (index, slot) in self.slots.range_mut(first..) {
            let page = cut_page(&slot.live, *index, length);
            slot.push(Version { page, cuts, is_cut: true });
            self.dirty.insert(*index);
        }
    }

    /// Everything un-synced becomes durable.
    pub(super) fn sync(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.slots.get_mut(&index) {
                slot.durable.clone_from(&slot.live);
                slot.versions.clear();
                if slot.live.is_none() {
                    self.slots.remove(&index);
                }
            }
        }
        if let Some(newest) = self.lengths.last() {
            self.length_durable = newest.bytes;
        }
        self.forget_lengths();
    }

    /// What Linux does when write-back fails: the pages are marked clean though they never reached
    /// the disk. Readers go on to see them; no later sync writes them.
    pub(super) fn lose_unsynced(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.slots.get_mut(&index) {
                slot.versions.clear();
            }
        }
        self.forget_lengths();
    }

    fn forget_lengths(&mut self) {
        self.lengths.clear();
        self.cuts = 0;
    }

    /// The file as a power cut may leave it: every block of `block_bytes` (512 or 4,096) has its
    /// newest version with `keep_percent`, else the next older one likewise, and at last the
    /// durable one.
    pub(super) fn after_crash(
        &self,
        keep_percent: u8,
        block_bytes: u64,
        random: &mut Random,
    ) -> Self {
        let (length, cuts) = self.surviving_length(keep_percent, block_bytes, random);
        let mut slots = BTreeMap::new();
        for (index, slot) in self.slots.range(..length.div_ceil(PAGE_BYTES)) {
            let page = slot.surviving_page(keep_percent, block_bytes, cuts, random);
            let page = cut_page(&page, *index, length);
            if page.is_some() {
                slots.insert(*index, Slot { durable: page.clone(), live: page, ..Slot::default() });
            }
        }
        let bad = self.bad.clone();
        Self { slots, length, length_durable: length, bad, ..Self::default() }
    }

    /// A length some prefix of the changes leaves, and how many cuts are in that prefix.
    fn surviving_length(&self, keep: u8, block_bytes: u64, random: &mut Random) -> (u64, usize) {
        let kept = (0..self.lengths.len()).rev().find(|_| random.chance(keep));
        let survivors = kept.map_or(0, |newest| newest + 1);
        let (prefix, lost) = self.lengths.split_at(survivors);
        let mut length = prefix.last().map_or(self.length_durable, |l| l.bytes);
        // A large write grows the file block by block; the cut may come between two of them.
        if let Some(next) = lost.first().filter(|next| !next.is_cut && random.chance(keep)) {
            let blocks = next.bytes.saturating_sub(length) / block_bytes;
            length += random.below(blocks + 1) * block_bytes;
        }
        (length, prefix.iter().filter(|l| l.is_cut).count())
    }

    /// Damages the file behind everybody's back: what is live becomes durable, then `damage`
    /// changes it.
    pub(super) fn damage(&mut self, damage: impl FnOnce(&mut Self)) {
        self.sync();
        damage(self);
        self.sync();
    }

    /// Every sector that `length` bytes at `offset` touch fails to read until written again.
    pub(super) fn mark_bad(&mut self, offset: u64, length: u64) {
        if length > 0 {
            self.bad.extend(offset / SECTOR_BYTES..=(offset + length - 1) / SECTOR_BYTES);
        }
    }
}

impl Slot {
    fn push(&mut self, version: Version) {
        self.live.clone_from(&version.page);
        if self.versions.len() >= VERSIONS_MAX {
            let oldest = self.versions.iter().position(|v| !v.is_cut).unwrap_or(0);
            self.versions.remove(oldest);
        }
        self.versions.push(version);
    }

    fn surviving_page(&self, keep: u8, block: u64, cuts: usize, random: &mut Random) -> Page {
        let eligible: Vec<&Version> = self.versions.iter().filter(|v| v.cuts <= cuts).collect();
        let cut = eligible.iter().rposition(|v| v.is_cut);
        let base = cut.map_or(&self.durable, |i| &eligible[i].page);
        let candidates = &eligible[cut.map_or(0, |i| i + 1)..];
        if candidates.is_empty() {
            return base.clone();
        }
        let mut page = base.as_deref().copied().unwrap_or([0; PAGE]);
        for start in (0..PAGE).step_by(block as usize) {
            let range = start..start + block as usize;
            if let Some(version) = candidates.iter().rev().find(|_| random.chance(keep)) {
                match &version.page {
                    Some(kept) => page[range.clone()].copy_from_slice(&kept[range]),
                    None => page[range].fill(0),
                }
            }
        }
        Some(Arc::new(page))
    }
}

/// `page` with zeros from byte `length` of the file on.
fn cut_page(page: &Page, index: u64, length: u64) -> Page {
    let kept = length.saturating_sub(index * PAGE_BYTES);
    match page {
        Some(page) if kept >= PAGE_BYTES => Some(page.clone()),
        Some(page) if kept > 0 => {
            let mut cut = **page;
            cut[kept as usize..].fill(0);
            Some(Arc::new(cut))
        }
        _ => None,
    }
}

/// Splits `length` bytes at `offset` at page borders: (page, offset in it, range of the buffer).
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE_BYTES) as usize;
        let count = (PAGE - within).min(length - done);
        let piece = (at / PAGE_BYTES, within, done..done + count);
        done += count;
        (count > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; content.len() as usize];
        assert_eq!(content.read(&mut bytes, 0).unwrap(), bytes.len());
        bytes
    }

    fn crashed(content: &Content, keep: u8, seed: u64) -> Vec<u8> {
        all(&content.after_crash(keep, SECTOR_BYTES, &mut Random::new(seed)))
    }

    #[test]
    fn reads_see_the_last_write_across_page_borders() {
        let mut content = Content::default();
        content.write(&[1; 10_000], 100);
        content.write(&[2; 10], 4_090);
        let bytes = all(&content);
        assert_eq!(bytes.len(), 10_100);
        assert_eq!(bytes[..100], [0; 100]);
        assert_eq!(bytes[4_090..4_100], [2; 10]);
        assert_eq!(bytes[4_100..], [1; 6_000]);
        assert_eq!(content.read(&mut [0; 8], 10_100).unwrap(), 0);
    }

    #[test]
    fn a_crash_at_zero_percent_leaves_the_synced_state_and_at_hundred_the_live_one() {
        let mut content = Content::default();
        content.write(b"synced", 0);
        content.sync();
        content.write(b"later, longer", 0);
        assert_eq!(crashed(&content, 0, 1), b"synced");
        assert_eq!(crashed(&content, 100, 1), b"later, longer");
    }

    #[test]
    fn a_write_is_torn_at_sector_borders_only() {
        let mut content = Content::default();
        content.set_len(8_192);
        content.sync();
        content.write(&[7; 8_192], 0);
        let mut torn = 0;
        for seed in 0..50 {
            let bytes = crashed(&content, 50, seed);
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|b| *b == sector[0]), "a sector is atomic");
            }
            torn += usize::from(bytes.contains(&0) && bytes.contains(&7));
        }
        assert!(torn > 40, "{torn} of 50 were torn");
    }

    #[test]
    fn a_sector_on_disk_was_once_that_sector_in_memory() {
        let mut content = Content::default();
        content.set_len(512);
        content.sync();
        content.write(b"first", 0);
        content.write(b"second", 5);
        for seed in 0..50 {
            let bytes = crashed(&content, 50, seed);
            let known: [&[u8]; 3] = [&[0; 11], b"first\0\0\0\0\0\0", b"firstsecond"];
            assert!(known.contains(&&bytes[..11]), "{:?}", &bytes[..11]);
        }
    }

    #[test]
    fn an_unsynced_growth_is_kept_wholly_partly_or_not() {
        let mut content = Content::default();
        content.write(&[1; 512], 0);
        content.sync();
        content.write(&[2; 5_120], 512);
        let lengths: BTreeSet<usize> =
            (0..200).map(|seed| crashed(&content, 50, seed).len()).collect();
        assert!(lengths.contains(&512) && lengths.contains(&5_632), "{lengths:?}");
        assert!(lengths.len() > 5, "{lengths:?}");
    }

    #[test]
    fn what_was_cut_off_comes_back_only_if_the_cut_is_lost() {
        let mut content = Content::default();
        content.write(&[1; 5_000], 0);
        content.sync();
        content.set_len(1_000);
        content.set_len(5_000);
        for seed in 0..100 {
            let bytes = crashed(&content, 50, seed);
            match bytes.len() {
                5_000 if bytes[4_999] == 1 => assert_eq!(bytes, [1; 5_000]),
                length => {
                    assert_eq!(bytes[..1_000], [1; 1_000]);
                    assert_eq!(bytes[1_000..], vec![0; length - 1_000]);
                }
            }
        }
    }

    #[test]
    fn pages_lost_by_a_failed_sync_are_never_written_again() {
        let mut content = Content::default();
        content.write(b"before", 0);
        content.sync();
        content.write(b"AFTER!", 0);
        content.lose_unsynced();
        content.sync();
        assert_eq!(all(&content), b"AFTER!");
        assert_eq!(crashed(&content, 100, 1), b"before");
    }

    #[test]
    fn a_bad_sector_fails_until_it_is_written() {
        let mut content = Content::default();
        content.write(&[1; 2_048], 0);
        content.mark_bad(600, 1);
        assert!(content.read(&mut [0; 512], 0).is_ok());
        assert!(content.read(&mut [0; 1], 1_000).is_err());
        content.write(&[2; 512], 512);
        assert!(content.read(&mut [0; 2_048], 0).is_ok());
    }

    #[test]
    fn many_small_unsynced_changes_stay_bounded() {
        let mut content = Content::default();
        for i in 0..10_000u64 {
            content.write(b"x", i);
        }
        assert!(content.lengths.len() <= LENGTHS_MAX);
        assert!(content.slots.values().all(|s| s.versions.len() <= VERSIONS_MAX));
    }
}
