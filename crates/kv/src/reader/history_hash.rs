//! One number for the keys of a range and their history, as etcd's HashKV tells it.
//!
//! Covered: every key and version that can be read, from the compacted revision up to the one that
//! is asked for; with revision, order in the revision and lease. Replicas with the same compacted
//! revision answer alike, whatever compaction has dropped.

use holdfast_model::Revision;
use xxhash_rust::xxh3::Xxh3;

use super::{At, RESTARTS_MAX, Reader, ScanRequest};
use crate::{Entry, Error, EventKind, Result};

/// Changes that are read at a time, bytes.
const PAGE_BYTES: usize = 4 * 1_024 * 1_024;

/// The hash of a history, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryHash {
    /// The hash.
    pub hash: u32,
    /// The oldest readable revision; 0 where nothing was compacted.
    pub compacted: Revision,
    /// The last revision that is covered.
    pub revision: Revision,
}

impl Reader {
    /// The hash of the history up to `revision`; 0 means the newest. Cost: reads all of it.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::Future`]: tell the caller. Others: as [`Reader::get`].
    pub fn history_hash(&self, revision: Revision) -> Result<HistoryHash> {
        let mut restarts = 0;
        loop {
            let newest = self.point().revision;
            let upto = if revision.0 == 0 { newest } else { revision };
            if upto > newest {
                return Err(Error::Future { newest });
            }
            let compacted = self.compacted();
            if upto < compacted {
                return Err(Error::Compacted { oldest: compacted });
            }
            match self.hash_between(compacted, upto) {
                // Compaction has overtaken the hash; what it covers now is less.
                Err(Error::Compacted { .. }) if restarts < RESTARTS_MAX => restarts += 1,
                hash => return hash.map(|hash| HistoryHash { hash, compacted, revision: upto }),
            }
        }
    }

    fn hash_between(&self, compacted: Revision, upto: Revision) -> Result<u32> {
        let mut hash = match compacted {
            Revision(0) => Xxh3::new(),
            compacted => self.hash_at(compacted)?,
        };
        let mut since = compacted;
        while since < upto {
            let page = self.changes(since, upto, PAGE_BYTES, false)?;
            for event in page.revisions.iter().flat_map(|revision| &revision.events) {
                add(&mut hash, event.kind, &event.entry);
            }
            // Pages make progress: at least one revision each.
            assert!(page.complete_to > since, "a page of changes is empty before its end");
            since = page.complete_to;
        }
        let digest = hash.digest();
        // Both halves count.
        Ok(u32::try_from((digest ^ (digest >> 32)) & 0xffff_ffff).unwrap_or_default())
    }

    /// Begins with the keys as they were at a revision.
    fn hash_at(&self, revision: Revision) -> Result<Xxh3> {
        self.look(At::Revision(revision), |view| {
            let mut hash = Xxh3::new();
            self.walk(view, &ScanRequest::new("", ""), usize::MAX, |entry| {
                add(&mut hash, EventKind::Put, &entry);
                true
            })?;
            Ok(hash)
        })
    }
}

/// Adds one version of a key, with the lengths of what has no fixed one.
fn add(hash: &mut Xxh3, kind: EventKind, entry: &Entry) {
    let is_put = u64::from(kind == EventKind::Put);
    let Entry { key, value, revision, create_revision, version, lease, expires_at_ms } = entry;
    let (key_bytes, value_bytes) = (key.len() as u64, value.len() as u64);
    for word in [is_put, revision.0, create_revision.0, *version, lease.0, *expires_at_ms] {
        hash.update(&word.to_le_bytes());
    }
    hash.update(&key_bytes.to_le_bytes());
    hash.update(key);
    hash.update(&value_bytes.to_le_bytes());
    hash.update(value);
}
