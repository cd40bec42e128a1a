//! What can go wrong with a disk that still has power.
//!
//! A fault names the operation and the path it strikes, how many matching calls pass before and
//! how many it strikes. It counts its strikes: a test whose fault was never met has shown nothing.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

/// A call on a disk or on an open file, as faults and counters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Opening an existing file, listing, asking for names, lengths or space.
    Look,
    /// Reading bytes.
    Read,
    /// Creating a file or a directory.
    Create,
    /// Writing bytes.
    Write,
    /// Changing a length, or preallocating.
    Resize,
    /// Syncing a file.
    Sync,
    /// Syncing a directory.
    SyncDir,
    /// Renaming.
    Rename,
    /// Giving a second name.
    Link,
    /// Removing a file or a tree.
    Remove,
    /// Taking a lock.
    Lock,
}

impl Operation {
    /// Whether the operation changes what is on the disk or what survives a power cut.
    pub fn is_mutating(self) -> bool {
        !matches!(self, Self::Look | Self::Read | Self::Lock)
    }
}

/// What a fault does to the call it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Fails with EIO, nothing done. (For a sync see [`Effect::SyncFails`].)
    Eio,
    /// Fails with ENOSPC, nothing done.
    Enospc,
    /// Write: the first `bytes` get through, then ENOSPC.
    ShortWrite {
        /// How many bytes are written.
        bytes: usize,
    },
    /// Write: reported as done, yet readers and the platter keep the old bytes.
    PhantomWrite,
    /// Write: lands `distance` bytes further on in the same file.
    MisdirectedWrite {
        /// How far off, bytes.
        distance: u64,
    },
    /// Read: bit `bit` of the answer is flipped, this time only.
    FlipBit {
        /// Counted from bit 0 of the first byte read; past the end of the answer nothing happens.
        bit: usize,
    },
    /// File sync: fails with EIO, and what was un-synced never reaches the platter, though later
    /// syncs succeed (the kernel marks such pages clean).
    SyncFails,
    /// Sync: reported as done, nothing is durable.
    SyncLies,
}

impl Effect {
    /// The error of an effect that prevents the whole call.
    pub(super) fn refusal(self) -> Option<io::Error> {
        match self {
            Self::Eio => Some(eio()),
            Self::Enospc => Some(enospc()),
            _ => None,
        }
    }
}

pub(super) fn eio() -> io::Error {
    Errno::IO.into()
}

pub(super) fn enospc() -> io::Error {
    Errno::NOSPC.into()
}

type PathPredicate = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// A planned fault: by default it strikes the first matching call, once, whatever the path.
#[derive(Clone)]
pub struct Fault {
    operation: Operation,
    effect: Effect,
    path: PathPredicate,
    skip: u64,
    times: u64,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?} after {}, ", self.effect, self.operation, self.skip)?;
        write!(f, "{} times", self.times)
    }
}

impl Fault {
    /// `effect` on the next `operation`.
    pub fn new(operation: Operation, effect: Effect) -> Self {
        Self { operation, effect, path: Arc::new(|_| true), skip: 0, times: 1 }
    }

    /// Only where `path` says so. Open files answer to the name they were opened by.
    #[must_use]
    pub fn on(mut self, path: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        self.path = Arc::new(path);
        self
    }

    /// The first `calls` that match pass.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Strikes so many calls.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Strikes until removed.
    #[must_use]
    pub fn forever(self) -> Self {
        self.times(u64::MAX)
    }
}

/// Names an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(usize);

#[derive(Debug)]
struct Injected {
    fault: Fault,
    seen: u64,
    struck: u64,
    is_removed: bool,
}

/// The faults of one disk.
#[derive(Debug, Default)]
pub(super) struct Faults {
    injected: Vec<Injected>,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) -> FaultId {
        self.injected.push(Injected { fault, seen: 0, struck: 0, is_removed: false });
        FaultId(self.injected.len() - 1)
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        if let Some(injected) = self.injected.get_mut(id.0) {
            injected.is_removed = true;
        }
    }

    pub(super) fn remove_all(&mut self) {
        self.injected.iter_mut().for_each(|i| i.is_removed = true);
    }

    pub(super) fn struck(&self, id: FaultId) -> u64 {
        self.injected.get(id.0).map_or(0, |i| i.struck)
    }

    /// The effect of the first fault that strikes this call; every matching fault counts it.
    pub(super) fn strike(&mut self, operation: Operation, path: &Path) -> Option<Effect> {
        let mut effect = None;
        for injected in &mut self.injected {
            let fault = &injected.fault;
            if injected.is_removed || fault.operation != operation || !(fault.path)(path) {
                continue;
            }
            injected.seen += 1;
            if effect.is_none() && injected.seen > fault.skip && injected.struck < fault.times {
                injected.struck += 1;
                effect = Some(fault.effect);
            }
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_the_calls_it_names_and_no_others() {
        let mut faults = Faults::default();
        let plan = Fault::new(Operation::Write, Effect::Eio)
            .on(|path| path.ends_with("log"))
            .after(1)
            .times(2);
        let id = faults.inject(plan);
        let (log, other) = (Path::new("/a/log"), Path::new("/a/other"));
        assert_eq!(faults.strike(Operation::Write, other), None);
        assert_eq!(faults.strike(Operation::Read, log), None);
        let strikes: Vec<bool> =
            (0..4).map(|_| faults.strike(Operation::Write, log).is_some()).collect();
        assert_eq!(strikes, [false, true, true, false]);
        assert_eq!(faults.struck(id), 2);
    }

    #[test]
    fn a_removed_fault_keeps_its_count() {
        let mut faults = Faults::default();
        let id = faults.inject(Fault::new(Operation::Sync, Effect::SyncLies).forever());
        faults.strike(Operation::Sync, Path::new("x"));
        faults.remove(id);
        assert_eq!(faults.strike(Operation::Sync, Path::new("x")), None);
        assert_eq!(faults.struck(id), 1);
    }
}
