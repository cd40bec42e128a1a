//! The tables and blob files a job writes: many if they grow long, deleted again if it fails.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_env::Disk;

use crate::blob::{BlobFile, BlobWriter};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::options::{Compression, ExpiresAt};
use crate::sink::Pace;
use crate::table::{
    FileDescriptor, PIECES_MAX, Stored, Table, TableWriter, WriterOptions, Written,
};
use crate::tombstone::{Fragments, RangeTombstone, successor};
use crate::tree::Tree;
use crate::types::Family;

/// Files nobody refers to yet: deleted when they are dropped, unless they are kept.
pub(crate) struct NewFiles {
    disk: Arc<dyn Disk>,
    paths: Vec<PathBuf>,
    is_kept: bool,
}

impl NewFiles {
    /// Keeps them if the edit that names them has `outcome`. After a fatal error the edit may or
    /// may not be on the disk: then they must stay.
    pub(crate) fn keep_after(&mut self, outcome: &Result<bool>) {
        self.is_kept = match outcome {
            Ok(is_committed) => *is_committed,
            Err(error) => error.is_fatal(),
        };
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for path in &self.paths {
            // What cannot be deleted now is found unreferenced and deleted at the next opening.
            let _ = self.disk.remove_file(path);
        }
    }
}

/// What was written.
pub(crate) struct Made {
    pub(crate) tables: Vec<Arc<Table>>,
    /// Bytes of tables and blob files.
    pub(crate) bytes: u64,
    pub(crate) files: NewFiles,
}

/// Tables being written.
pub(crate) struct Output<'a> {
    tree: &'a Tree,
    generation: &'a Generation,
    compression: Compression,
    table_bytes_max: u64,
    level: usize,
    written: Written,
    writer: Option<TableWriter>,
    last_key: Option<(Family, Vec<u8>)>,
    /// The family that is being written, and its range tombstones no table has yet.
    ranges: Option<(Family, VecDeque<RangeTombstone>)>,
    /// Tables, each with what its blocks are cached under.
    finished: Vec<(FileDescriptor, u64)>,
    blob_writer: Option<BlobWriter>,
    finished_blobs: Vec<FileDescriptor>,
    /// Blob files that records kept their references to.
    kept_blobs: Vec<Arc<BlobFile>>,
    files: NewFiles,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        generation: &'a Generation,
        level: usize,
        table_bytes_max: u64,
        written: Written,
    ) -> Self {
        Self {
            tree,
            generation,
            compression: tree.options.compression[level],
            level,
            table_bytes_max,
            written,
            writer: None,
            last_key: None,
            ranges: None,
            finished: Vec::new(),
            blob_writer: None,
            finished_blobs: Vec::new(),
            kept_blobs: Vec::new(),
            files: NewFiles { disk: tree.home.disk.clone(), paths: Vec::new(), is_kept: false },
        }
    }

    /// Lets references to these files stay as they are.
    pub(crate) fn keep_blobs<'b>(&mut self, blobs: impl Iterator<Item = &'b Arc<BlobFile>>) {
        self.kept_blobs.extend(blobs.cloned());
    }

    /// Adds a record; begins another table where one is full, never between versions of a key. A
    /// long value goes to a blob file.
    pub(crate) fn add(
        &mut self,
        family: Family,
        key: &[u8],
        seq: u64,
        ordinal: u32,
        value: Stored<'_>,
    ) -> Result<()> {
        let same_key = self.last_key.as_ref().is_some_and(|(f, k)| *f == family && k == key);
        if !same_key && self.is_full() {
            self.cut()?;
        }
        if !same_key {
            let (last_family, last_key) =
                self.last_key.get_or_insert_with(|| (family, Vec::with_capacity(key.len())));
            *last_family = family;
            last_key.clear();
            last_key.extend_from_slice(key);
        }
        if self.writer.is_none() {
            self.writer = Some(self.begin_table()?);
        }
        let expires = self.expires_at(family, value);
        let value_bytes = value.len();
        let value = self.place(value, expires)?;
        // The writer stays where it is: to take it out and put it back for every record would copy
        // a kilobyte.
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.add(family, key, seq, ordinal, value)?;
        if let Some(at_ms) = expires {
            writer.count_expiry(at_ms, key.len() + value_bytes);
        }
        Ok(())
    }

    /// Puts the block of the last record into the cache when it is written.
    pub(crate) fn keep_warm(&mut self) {
        if let Some(writer) = &mut self.writer {
            writer.keep_warm();
        }
    }

    /// Whether the cache takes more without giving something up.
    pub(crate) fn has_room_in_cache(&self) -> bool {
        self.tree.home.shared.has_room_in_cache()
    }

    /// When a value expires, if it does.
    fn expires_at(&self, family: Family, value: Stored<'_>) -> Option<u64> {
        match (value, self.tree.options.expires_at) {
            (Stored::Inline(value), Some(ExpiresAt(of))) if family == Family::Data => of(value),
            (Stored::Blob(reference), _) => reference.expires_at,
            _ => None,
        }
    }

    /// Begins `family`, whose records come next, with the range tombstones over them.
    pub(crate) fn begin_family(&mut self, family: Family, ranges: Fragments) {
        debug_assert!(self.ranges.is_none(), "families end before others begin");
        self.ranges = Some((family, ranges.into_pieces().into()));
    }

    /// Ends the family: what is left of its range tombstones goes to the last table, and to others
    /// if it is much.
    pub(crate) fn end_family(&mut self) -> Result<()> {
        let Some((family, mut left)) = self.ranges.take() else { return Ok(()) };
        while !left.is_empty() {
            let mut writer = match self.writer.take() {
                Some(writer) => writer,
                None => self.begin_table()?,
            };
            let mut taken = 0;
            while let Some(piece) = left.pop_front() {
                let goes_on = left.front().is_some_and(|next| next.start == piece.start);
                let largest = piece.largest();
                writer.add_range(family, piece);
                taken += 1;
                // The next table must not begin where this one may end.
                let is_apart = left.front().is_some_and(|next| next.start > largest);
                if taken >= PIECES_MAX && !goes_on && is_apart {
                    break;
                }
            }
            self.writer = Some(writer);
            if !left.is_empty() {
                self.finish_table()?;
            }
        }
        Ok(())
    }

    /// Whether the next key should begin another table.
    fn is_full(&self) -> bool {
        let Some(writer) = &self.writer else { return false };
        let many_ranges = || {
            let (Some((family, left)), Some((last_family, last_key))) =
                (&self.ranges, &self.last_key)
            else {
                return false;
            };
            let nth = left.get(PIECES_MAX);
            family == last_family && nth.is_some_and(|piece| piece.start <= *last_key)
        };
        writer.bytes() >= self.table_bytes_max || many_ranges()
    }

    /// Ends the table behind the last key. Range tombstones are cut there, too: a table is bounded
    /// by what it hides, and tables of a level must not overlap.
    fn cut(&mut self) -> Result<()> {
        if let (Some((family, left)), Some((last_family, last_key)), Some(writer)) =
            (&mut self.ranges, &self.last_key, &mut self.writer)
            && family == last_family
        {
            let behind = successor(last_key);
            let mut rest = Vec::new();
            while left.front().is_some_and(|piece| piece.start < behind) {
                let Some(piece) = left.pop_front() else { break };
                if piece.end > behind {
                    rest.push(RangeTombstone { start: behind.clone(), ..piece.clone() });
                }
                let end = piece.end.clone().min(behind.clone());
                writer.add_range(*family, RangeTombstone { end, ..piece });
            }
            rest.into_iter().rev().for_each(|piece| left.push_front(piece));
        }
        self.finish_table()
    }

    /// Writes a long value to a blob file and returns what is left for the table.
    fn place<'v>(&mut self, value: Stored<'v>, expires: Option<u64>) -> Result<Stored<'v>> {
        let Stored::Inline(bytes) = value else { return Ok(value) };
        let options = &self.tree.options;
        if bytes.len() < options.blob_bytes_min {
            return Ok(value);
        }
        if self.blob_writer.as_ref().is_some_and(|w| w.bytes() >= options.blob_file_bytes) {
            self.finish_blob()?;
        }
        let mut writer = match self.blob_writer.take() {
            Some(writer) => writer,
            None => self.begin_blob()?,
        };
        let reference = writer.add(bytes, expires)?;
        self.blob_writer = Some(writer);
        Ok(Stored::Blob(reference))
    }

    fn begin_blob(&mut self) -> Result<BlobWriter> {
        let number = self.generation.take_file_number();
        let path = self.generation.blob_path(number);
        self.files.paths.push(path.clone());
        let (disk, birth) = (self.tree.home.disk.as_ref(), self.tree.entropy.u128());
        BlobWriter::create(disk, &path, number, birth, self.compression, self.pace())
    }

    fn finish_blob(&mut self) -> Result<()> {
        if let Some(writer) = self.blob_writer.take() {
            self.finished_blobs.push(writer.finish()?);
        }
        Ok(())
    }

    fn begin_table(&mut self) -> Result<TableWriter> {
        let number = self.generation.take_file_number();
        let path = self.generation.table_path(number);
        self.files.paths.push(path.clone());
        let options = &self.tree.options;
        let options = WriterOptions {
            block_bytes: options.block_bytes,
            restart_interval: options.restart_interval,
            bloom_bits_per_key: options.bloom_bits_per_key,
            partition_bytes: options.partition_bytes,
            compression: self.compression,
        };
        let birth = self.tree.entropy.u128();
        let disk = self.tree.home.disk.as_ref();
        TableWriter::create(disk, &path, number, birth, options, self.pace())
    }

    fn pace(&self) -> Pace {
        Pace { shared: self.tree.home.shared.clone(), can_wait: self.written.can_wait }
    }

    fn finish_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let opened_as = writer.opened_as();
            self.finished.push((writer.finish(self.written)?, opened_as));
        }
        Ok(())
    }

    /// Makes all files and their names durable and opens them.
    pub(crate) fn finish(mut self) -> Result<Made> {
        self.finish_table()?;
        self.finish_blob()?;
        if self.finished.is_empty() {
            return Ok(Made { tables: Vec::new(), bytes: 0, files: self.files });
        }
        let dir = self.generation.dir();
        if !holdfast_env::defect!(SKIP_DIRECTORY_FSYNC) {
            self.tree.home.disk.sync_dir(dir).map_err(|e| Error::durable("sync", dir, e))?;
        }
        let mut blobs = std::mem::take(&mut self.kept_blobs);
        for descriptor in &self.finished_blobs {
            let path = self.generation.blob_path(descriptor.number);
            let blob = BlobFile::open(self.tree.home.clone(), path, *descriptor)?;
            blobs.push(Arc::new(blob));
        }
        let blob = |number| blobs.iter().find(|b| b.number() == number).cloned();
        let open = |(descriptor, opened_as): &(FileDescriptor, u64)| {
            let path = self.generation.table_path(descriptor.number);
            let place = (self.level, *opened_as);
            Table::open(self.tree.home.clone(), path, *descriptor, place, &blob).map(Arc::new)
        };
        let tables = self.finished.iter().map(open).collect::<Result<Vec<_>>>()?;
        let all = self.finished.iter().map(|(table, _)| table).chain(&self.finished_blobs);
        let bytes = all.map(|descriptor| descriptor.bytes).sum();
        Ok(Made { tables, bytes, files: self.files })
    }
}
