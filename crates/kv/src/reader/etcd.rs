//! Transactions as etcd means them that only read; its plain ranges are such, of one step.

use bytes::Bytes;
use holdfast_lsm::Family;
use holdfast_model::{LeaseId, Revision};

use super::{At, Reader, ScanRequest, View, shown};
use crate::apply::{EtcdGround, Step, Stop, etcd_walk};
use crate::command::{EtcdKeys, EtcdTxn, Put};
use crate::working::Visit;
use crate::{Entry, EtcdOutcome, Previous, Refusal, Result};

const READ_ONLY: Refusal =
    Refusal::Malformed { what: "a transaction that only reads has no writes" };

/// A reader's state, which nothing changes.
struct Sight<'r> {
    reader: &'r Reader,
    view: &'r View,
    compacted: Revision,
}

impl Reader {
    /// Runs a transaction that only reads. Its answer is the one apply would give at that state, or
    /// the refusal. Waits for the disk where something is not in memory.
    ///
    /// # Errors
    /// As [`Reader::get`].
    pub fn etcd(&self, txn: &EtcdTxn, at: At) -> Result<std::result::Result<EtcdOutcome, Refusal>> {
        self.look(at, |view| {
            let mut sight = Sight { reader: self, view, compacted: self.compacted() };
            let answer = etcd_walk(&mut sight, txn);
            let revision = view.point.revision;
            match answer {
                Ok(Some((succeeded, results))) => {
                    Ok(Ok(EtcdOutcome { succeeded, revision, changed: false, results }))
                }
                Ok(None) => Ok(Err(READ_ONLY)),
                Err(Stop::Refused(refusal)) => Ok(Err(refusal)),
                Err(Stop::Failed(error)) => Err(error),
            }
        })
    }
}

impl Sight<'_> {
    fn visit_at(
        &self,
        view: &View,
        keys: &EtcdKeys,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Result<()> {
        match keys {
            EtcdKeys::One(key) => {
                self.reader.check_span(view, key)?;
                let record = self.reader.engine.get(Family::Data, key, view.point)?;
                shown(view, key, record)?.map(each);
            }
            EtcdKeys::Interval(start, end) => {
                let request = ScanRequest::new(start.clone(), end.clone());
                let take = |entry| each(entry) == Visit::On;
                self.reader.walk(view, &request, usize::MAX, take)?;
            }
        }
        Ok(())
    }
}

impl EtcdGround for Sight<'_> {
    fn base(&self) -> Revision {
        self.view.point.revision
    }

    fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Nobody waits for a reader but who asked; what it gathers is bounded by its bytes.
    fn keys_max(&self) -> usize {
        usize::MAX
    }

    fn has_changed(&self) -> bool {
        false
    }

    fn visit(
        &mut self,
        keys: &EtcdKeys,
        at: Option<Revision>,
        each: &mut dyn FnMut(Entry) -> Visit,
    ) -> Step<()> {
        let Some(revision) = at else { return Ok(self.visit_at(self.view, keys, each)?) };
        let point = self.view.point.at_revision(revision);
        let view = View { point, hide_ms: None, truth: self.view.truth };
        Ok(self.visit_at(&view, keys, each)?)
    }

    fn check_lease(&mut self, _id: LeaseId, _held: LeaseId) -> Step<()> {
        Err(READ_ONLY.into())
    }

    fn clear(&mut self, _key: &Bytes) -> Step<()> {
        Err(READ_ONLY.into())
    }

    fn put(&mut self, _put: &Put) -> Step<Option<Entry>> {
        Err(READ_ONLY.into())
    }

    fn delete(&mut self, _entry: &Entry, _previous: Previous) -> Step<()> {
        Err(READ_ONLY.into())
    }
}
