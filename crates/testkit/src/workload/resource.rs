//! What a lock protects: a count behind a gate that refuses old tokens.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::history::{Access, Record, Recorder};

#[derive(Clone, Copy, Debug, Default)]
struct Guarded {
    token: u64,
    count: u64,
}

/// Counts, one for each lock; outside of the store, as what locks protect usually is.
#[derive(Debug)]
pub struct Resource {
    recorder: Recorder,
    guarded: Mutex<BTreeMap<String, Guarded>>,
}

impl Resource {
    /// A resource that writes down its uses.
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, guarded: Mutex::new(BTreeMap::new()) }
    }

    /// The count behind `lock`; none where a greater token has been seen.
    pub fn read(&self, lock: &str, process: u32, token: u64) -> Option<u64> {
        self.access(lock, process, token, None)
    }

    /// Sets the count behind `lock`; none where a greater token has been seen.
    pub fn write(&self, lock: &str, process: u32, token: u64, count: u64) -> Option<u64> {
        self.access(lock, process, token, Some(count))
    }

    fn access(&self, lock: &str, process: u32, token: u64, new: Option<u64>) -> Option<u64> {
        // Written down under the lock, so that the history has the order of the uses.
        let mut all = self.guarded.lock();
        let guarded = all.entry(lock.to_owned()).or_default();
        let accepted = token >= guarded.token;
        if accepted {
            *guarded = Guarded { token, count: new.unwrap_or(guarded.count) };
        }
        let count = if accepted { guarded.count } else { new.unwrap_or_default() };
        self.recorder.push(Record::Access(Access {
            lock: lock.to_owned(),
            at: self.recorder.now(),
            process,
            token,
            accepted,
            count,
            is_write: new.is_some(),
        }));
        accepted.then_some(count)
    }
}
