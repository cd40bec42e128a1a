//! One operation of one process: what was asked, when, and what came back.

use serde::{Deserialize, Serialize};

/// How current a read had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Linearizable without a clock assumption.
    Linearizable,
    /// Linearizable by the leader's lease.
    Lease,
    /// From any replica, with a stated bound on its age.
    Follower {
        /// Answers that may be older are to be refused; none: any age is welcome.
        age_max_ms: Option<u64>,
    },
}

impl Level {
    /// Whether the answer must show every write acknowledged before the call.
    pub fn is_current(self) -> bool {
        !matches!(self, Self::Follower { .. })
    }
}

/// The condition of a put or delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The key does not exist.
    Absent,
    /// The key exists and was changed last at this revision.
    Revision(u64),
    /// The key exists with this value.
    Value(String),
}

/// What a transaction looks at before it chooses its side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// What must hold for it.
    pub when: When,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reads a key.
    Get(String),
    /// Writes a value under a key.
    Put(String, String),
    /// Deletes a key.
    Delete(String),
    /// Adds to the number under a key.
    Increment(String, i64),
}

impl Step {
    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Get(key) | Self::Put(key, _) | Self::Delete(key) | Self::Increment(key, _) => key,
        }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The entry of a key.
    Get {
        /// The key.
        key: String,
        /// How current.
        level: Level,
    },
    /// A value for a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Only under this condition.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when: Option<When>,
        /// Let it expire after so many milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        /// Bind it to this lease.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<u64>,
    },
    /// The end of a key.
    Delete {
        /// The key.
        key: String,
        /// Only under this condition.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when: Option<When>,
    },
    /// A greater number under a key; a missing key counts as 0.
    Increment {
        /// The key.
        key: String,
        /// What to add.
        delta: i64,
    },
    /// Several keys of one tag, at once.
    Txn {
        /// All must hold for `then` to run; else `otherwise` runs.
        compares: Vec<Compare>,
        /// Runs where all compares hold.
        then: Vec<Step>,
        /// Runs where one does not.
        otherwise: Vec<Step>,
    },
    /// All keys that begin so.
    Scan {
        /// How they begin.
        prefix: String,
        /// How current.
        level: Level,
    },
    /// A lease for keys of the tag of `key`.
    Grant {
        /// Places the lease.
        key: String,
        /// Its time.
        ttl_ms: u64,
    },
    /// More time for a lease.
    Renew {
        /// The lease.
        lease: u64,
    },
    /// The end of a lease and of its keys.
    Revoke {
        /// The lease.
        lease: u64,
    },
    /// A lock, waited for.
    Lock {
        /// Its name.
        name: String,
        /// It is lost so long after its holder falls silent.
        ttl_ms: u64,
    },
    /// A lock given back.
    Unlock {
        /// Its name.
        name: String,
        /// The token of the grant.
        token: u64,
    },
}

impl Request {
    /// A linearizable get.
    pub fn get(key: impl Into<String>) -> Self {
        Self::Get { key: key.into(), level: Level::Linearizable }
    }

    /// A put without conditions.
    pub fn put(key: impl Into<String>, value: impl Into<String>) -> Self {
        let (key, value) = (key.into(), value.into());
        Self::Put { key, value, when: None, ttl_ms: None, lease: None }
    }

    /// A put where the key has this value.
    pub fn cas(key: impl Into<String>, old: impl Into<String>, new: impl Into<String>) -> Self {
        let (key, value) = (key.into(), new.into());
        Self::Put { key, value, when: Some(When::Value(old.into())), ttl_ms: None, lease: None }
    }

    /// A delete without conditions.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into(), when: None }
    }

    /// An increment.
    pub fn increment(key: impl Into<String>, delta: i64) -> Self {
        Self::Increment { key: key.into(), delta }
    }

    /// Whether it can change anything.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Scan { .. } => true,
            Self::Txn { then, otherwise, .. } => {
                then.iter().chain(otherwise).all(|step| matches!(step, Step::Get(_)))
            }
            _ => false,
        }
    }

    /// The one key of an operation on one key.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Get { key, .. }
            | Self::Put { key, .. }
            | Self::Delete { key, .. }
            | Self::Increment { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// An entry as an answer showed it. Zero means: not told, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The value.
    #[serde(rename = "v")]
    pub value: String,
    /// Revision of the last change.
    #[serde(rename = "r")]
    pub revision: u64,
    /// Revision at which this life of the key began.
    #[serde(rename = "c", default)]
    pub create: u64,
    /// How many times it was written in this life.
    #[serde(rename = "n", default)]
    pub version: u64,
    /// The lease it is bound to.
    #[serde(rename = "l", default)]
    pub lease: u64,
    /// Range time at which it expires, milliseconds.
    #[serde(rename = "x", default)]
    pub expires_ms: u64,
}

/// An entry in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The range.
    pub range: u64,
    /// The key.
    pub key: String,
    /// The entry.
    pub item: Item,
}

/// A point in the history of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Point {
    /// The range.
    pub range: u64,
    /// Its revision.
    pub revision: u64,
    /// Its clock, milliseconds; 0: not told.
    #[serde(default)]
    pub clock_ms: u64,
}

/// What one step of a transaction gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepTold {
    /// What a get found.
    Read(Option<Item>),
    /// A put.
    Written,
    /// How many keys a delete removed.
    Deleted(u64),
    /// The number after an increment.
    Number(i64),
}

/// What an answer told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Get: what stands there.
    Read(Option<Item>),
    /// Put: written at the answer's revision. Zeros: not told.
    Written {
        /// Revision at which this life of the key began.
        create: u64,
        /// How many times it was written in this life.
        version: u64,
    },
    /// Put, delete: the condition did not hold; what stood there, not later than the answer's
    /// revision (0: not told).
    Refused(Option<Item>),
    /// Delete: how many keys went.
    Deleted(u64),
    /// Increment: the number now.
    Number(i64),
    /// Transaction.
    Txn {
        /// Which side ran.
        succeeded: bool,
        /// Whether anything changed, at the answer's revision; else that is the one it saw.
        changed: bool,
        /// One per step of the side that ran.
        results: Vec<StepTold>,
    },
    /// Scan: the points it shows, one per range, and what stands there.
    Scanned {
        /// The points.
        points: Vec<Point>,
        /// The entries, in order of their keys.
        entries: Vec<Placed>,
    },
    /// Lease: granted.
    Granted {
        /// Its id.
        lease: u64,
        /// Its time.
        ttl_ms: u64,
    },
    /// Lease: renewed for so long; 0: there is no such lease.
    Renewed(u64),
    /// Lease: revoked, with so many keys; none: there was no such lease.
    Revoked(Option<u64>),
    /// Lock: held under this token.
    Locked(u64),
    /// Lock: given back; `false`: it was lost before.
    Unlocked(bool),
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Where and when in the history of the range. Changes: the revision they made. Revision 0:
    /// not told.
    pub point: Point,
    /// Follower reads: the age the answer can have at most, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// What it said.
    pub told: Told,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With an answer.
    Done(Answer),
    /// It did not happen and never will, for this reason.
    Failed(String),
    /// It may have happened, or may still happen until the end of time, once.
    Unknown(String),
}

impl Outcome {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Done(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether nobody knows what became of it.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// One operation of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who.
    pub process: u32,
    /// When it was called, nanoseconds.
    pub call: u64,
    /// When its outcome was there, or it was given up.
    pub back: u64,
    /// What was asked.
    pub request: Request,
    /// How it ended.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Answer> {
        self.outcome.answer()
    }

    /// The side of a transaction that ran, with what each step gave; none for all else.
    pub fn steps(&self) -> Option<(&[Step], &[StepTold])> {
        let Request::Txn { then, otherwise, .. } = &self.request else { return None };
        let Told::Txn { succeeded, results, .. } = &self.answer()?.told else { return None };
        Some((if *succeeded { then } else { otherwise }, results))
    }
}
