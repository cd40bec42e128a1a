//! openraft's log on the node's journal.
//!
//! Appends return at once and are completed by the journal's writer; votes and truncations are
//! durable before they return. One FIFO queue under all of them keeps openraft's rule that votes
//! and entries of a group are never reordered.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use holdfast_env::defect;
use holdfast_journal::{Done, GroupId, Journal};
use holdfast_runtime::sleep;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::health::Health;
use crate::options::ENTRY_BYTES_MAX;
use crate::raft::codec;
use crate::raft::tail::Tail;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes read from the journal at a time where a whole range of entries is wanted.
const READ_BYTES_MAX: u64 = 4 * ENTRY_BYTES_MAX as u64;
/// How long an append waits before it asks a full journal again.
const FULL_RETRY: Duration = Duration::from_millis(20);

/// The log of one replica. Clones read and write the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub(crate) journal: Arc<Journal>,
    pub(crate) group: GroupId,
    pub(crate) tail: Arc<Tail>,
    pub(crate) health: Arc<Health>,
}

impl LogStore {
    /// An error as openraft takes it; one that makes the disk untrustworthy ends the process, one
    /// that shows damage ends the replica.
    fn failed(&self, error: holdfast_journal::Error) -> io::Error {
        if error.is_fatal() {
            self.health.untrustworthy_disk(&format!("journal: {error}"));
        } else if error.is_corruption() {
            self.health.damaged(format!("journal: {error}"));
        }
        io::Error::other(error)
    }

    /// The entries of `[start, end)` that are held, from the first one held on, as many as fit
    /// into `bytes_max`, at least one.
    fn read(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let read = match self.journal.read(self.group, start..end, bytes_max) {
            Err(holdfast_journal::Error::Purged { first, .. }) if first < end => {
                self.journal.read(self.group, first..end, bytes_max)
            }
            Err(holdfast_journal::Error::Purged { .. }) => Ok(Vec::new()),
            read => read,
        };
        let entries = read.map_err(|e| self.failed(e))?;
        let decode = |entry: holdfast_journal::Entry| {
            let payload = codec::decode_payload(entry.payload).map_err(io::Error::other)?;
            Ok(Entry { log_id: codec::from_journal(entry.position), payload })
        };
        entries.into_iter().map(decode).collect()
    }

    /// Waits until the record handed to `submit` is durable.
    async fn durably<F>(&self, submit: F) -> io::Result<()>
    where
        F: FnOnce(&Journal, Done) -> holdfast_journal::Result<()>,
    {
        let (done, durable) = oneshot::channel();
        // The receiver is gone only where openraft stops; nobody waits then.
        let done = Box::new(move |result| drop(done.send(result)));
        submit(&self.journal, done).map_err(|e| self.failed(e))?;
        let result = durable.await.map_err(|_| io::Error::other("the journal has stopped"))?;
        if let Err(error) = &result {
            self.health.untrustworthy_disk(&format!("journal: {error}"));
        }
        result
    }

    /// Fails where the log was given up: what the journal then answers is that of an empty one.
    fn check(&self) -> io::Result<()> {
        match self.journal.is_hit(self.group) {
            true => Err(self.failed(holdfast_journal::Error::GroupHit(self.group))),
            false => Ok(()),
        }
    }
}

/// The half-open interval that `range` means.
fn interval(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl LogStore {
    /// Completes `flushed` once called. The journal calls it on its own thread, and only for the
    /// newest append of a sync: completions are watermarks. While it waits there it keeps nothing
    /// of the replica alive, since that would keep the journal.
    fn completion(&self, flushed: &Arc<Mutex<Option<IOFlushed<TypeConfig>>>>) -> Done {
        let (health, flushed) = (Arc::downgrade(&self.health), flushed.clone());
        Box::new(move |result: io::Result<()>| {
            if let Err(error) = &result
                && let Some(health) = health.upgrade()
            {
                health.untrustworthy_disk(&format!("journal: {error}"));
            }
            if let Some(flushed) = flushed.lock().take() {
                flushed.io_completed(result);
            }
        })
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = interval(&range);
        Chunks { log: self.clone(), next: start, end, chunk: Vec::new().into_iter() }
    }

    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = interval(&range);
        let mut entries = self.read(start, end, READ_BYTES_MAX)?;
        while let Some(last) = entries.last().map(|e| e.log_id.index).filter(|i| i + 1 < end) {
            start = last + 1;
            let more = self.read(start, end, READ_BYTES_MAX)?;
            if more.is_empty() {
                break;
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.journal.vote(self.group);
        // After the answer, so that the log was whole when it was given.
        self.check()?;
        vote.map(|bytes| codec::decode_vote(&bytes).map_err(io::Error::other)).transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, ENTRY_BYTES_MAX as u64)
    }

    /// The last log id of every leader in the range (which is what openraft's own default returns,
    /// whatever its documentation says): from the journal's index, without reading entries.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogId>,
    ) -> Result<Vec<LogId>, io::Error> {
        let position = |index| {
            let position = self.journal.position(self.group, index);
            position
                .map(codec::from_journal)
                .ok_or_else(|| io::Error::other(format!("no entry at index {index}")))
        };
        key_log_ids(*range.start(), *range.end(), position)
    }
}

/// The last log id of each leader between `first` and `last`, found by bisection.
fn key_log_ids(
    first: LogId,
    last: LogId,
    position: impl Fn(u64) -> io::Result<LogId>,
) -> io::Result<Vec<LogId>> {
    let mut keys = Vec::new();
    let mut current = first;
    while current.leader_id != last.leader_id {
        // Entries up to `current` are of its leader, `other` and what follows it are not.
        let mut other = last.index;
        while current.index + 1 < other {
            let middle = position(current.index + (other - current.index) / 2)?;
            match middle.leader_id == current.leader_id {
                true => current = middle,
                false => other = middle.index,
            }
        }
        keys.push(current);
        current = position(other)?;
    }
    keys.push(last);
    Ok(keys)
}

/// Entries of an interval, read chunk by chunk.
struct Chunks {
    log: LogStore,
    next: u64,
    end: u64,
    chunk: std::vec::IntoIter<Entry>,
}

impl Stream for Chunks {
    type Item = io::Result<Entry>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if self.chunk.as_slice().is_empty() && self.next < self.end {
            match self.log.read(self.next, self.end, READ_BYTES_MAX) {
                Ok(entries) => {
                    self.next = entries.last().map_or(self.end, |e| e.log_id.index + 1);
                    self.chunk = entries.into_iter();
                }
                Err(error) => {
                    self.next = self.end;
                    return std::task::Poll::Ready(Some(Err(error)));
                }
            }
        }
        std::task::Poll::Ready(self.chunk.next().map(Ok))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.journal.log_state(self.group);
        self.check()?;
        Ok(LogState {
            last_purged_log_id: state.purged.map(codec::from_journal),
            last_log_id: state.last.map(codec::from_journal),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = codec::encode_vote(vote);
        if defect!(VOTE_NOT_DURABLE) {
            let saved = self.journal.save_vote(self.group, bytes, Box::new(drop));
            return saved.map_err(|e| self.failed(e));
        }
        self.durably(|journal, done| journal.save_vote(self.group, bytes, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        let position = codec::to_journal(&committed);
        self.tail.committed(position.index);
        self.journal.save_committed(self.group, position).map_err(|e| self.failed(e))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed = self.journal.committed(self.group).map(codec::from_journal);
        self.check()?;
        Ok(committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entry = |entry: Entry| holdfast_journal::Entry {
            position: codec::to_journal(&entry.log_id),
            payload: codec::encode_payload(&entry.payload),
        };
        let entries: Vec<_> = entries.into_iter().map(entry).collect();
        let last = entries.last().map(|entry| entry.position.index);
        let (flushed, not_last) = (Arc::new(Mutex::new(Some(flushed))), Arc::default());
        let (mut rest, mut count) = (entries.as_slice(), entries.len());
        loop {
            let (part, later) = rest.split_at(count);
            let done = self.completion(if later.is_empty() { &flushed } else { &not_last });
            match self.journal.append(self.group, part.to_vec(), done) {
                // All at once may be more than the journal takes however long one waits.
                Err(holdfast_journal::Error::Full { .. }) if count > 1 => count /= 2,
                Err(error @ holdfast_journal::Error::Full { .. }) => {
                    // What is not taken is not acknowledged either: the leader waits, and the
                    // replica goes on by itself once there is space.
                    tracing::warn!(group = %self.group, %error, "append waits");
                    sleep(FULL_RETRY).await;
                    count = rest.len();
                }
                result => {
                    result.map_err(|e| self.failed(e))?;
                    if later.is_empty() {
                        last.into_iter().for_each(|last| self.tail.ends_at(last));
                        return Ok(());
                    }
                    (rest, count) = (later, later.len());
                }
            }
        }
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        holdfast_env::sometimes!(CONFLICT_TRUNCATED);
        let last = last.map(|log_id| log_id.index);
        self.tail.ends_at(last.unwrap_or(0));
        self.durably(|journal, done| journal.truncate_after(self.group, last, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let position = codec::to_journal(&log_id);
        self.journal.purge(self.group, position).map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_log_ids_are_the_last_of_each_leader() {
        let leaders = [1_u64, 1, 1, 2, 2, 5, 5, 5, 5, 6];
        let at = |index: u64| codec::log_id(leaders[index as usize], 9, index);
        let keys = |first, last| {
            let keys = key_log_ids(at(first), at(last), |index| Ok(at(index))).unwrap();
            keys.iter().map(|key| key.index).collect::<Vec<_>>()
        };
        assert_eq!(keys(0, 9), [2, 4, 8, 9]);
        assert_eq!(keys(1, 7), [2, 4, 7]);
        assert_eq!(keys(4, 5), [4, 5]);
        assert_eq!(keys(7, 7), [7]);
    }
}
