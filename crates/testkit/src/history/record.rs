//! What a history holds besides operations.

use serde::{Deserialize, Serialize};

use super::operation::{Item, Operation};

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// An operation.
    Operation(Operation),
    /// A watch was started.
    Watch(Watch),
    /// A watch delivered something.
    Batch(Batch),
    /// The resource that a lock protects was used.
    Access(Access),
    /// Accounts whose sum must stay.
    Bank(Bank),
    /// A fault of the world.
    Fault(Fault),
    /// What a replica held at an index.
    StateHash(StateHash),
}

/// A watch that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Its number, unique in the history.
    pub id: u64,
    /// When it had been started: what was called later must be seen.
    pub at: u64,
    /// The key, or how the keys begin.
    pub key: String,
    /// Whether all keys that begin so are watched.
    pub is_prefix: bool,
    /// The first revision wanted; none: from now on, or from where another watch ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// It goes on after the last batch of this watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<u64>,
    /// Puts are left out.
    #[serde(default)]
    pub no_puts: bool,
    /// Deletes are left out.
    #[serde(default)]
    pub no_deletes: bool,
    /// Previous entries were asked for.
    #[serde(default)]
    pub previous: bool,
}

impl Watch {
    /// A watch on all keys that begin with `prefix`, from revision 1 on, with previous entries.
    pub fn all(id: u64, prefix: impl Into<String>) -> Self {
        Self {
            id,
            at: 0,
            key: prefix.into(),
            is_prefix: true,
            from: Some(1),
            resumes: None,
            no_puts: false,
            no_deletes: false,
            previous: true,
        }
    }

    /// Whether an event of this kind on `key` is to be delivered.
    pub fn wants(&self, key: &str, is_delete: bool) -> bool {
        let of_key = if self.is_prefix { key.starts_with(&self.key) } else { key == self.key };
        of_key && !(if is_delete { self.no_deletes } else { self.no_puts })
    }
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was written: this is what stands there now.
    Put(Item),
    /// It went at this revision.
    Delete(u64),
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The key.
    pub key: String,
    /// What happened to it.
    pub change: Change,
    /// What stood there before, where that was asked for and told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Item>,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        match &self.change {
            Change::Put(item) => item.revision,
            Change::Delete(revision) => *revision,
        }
    }

    /// Whether the key went.
    pub fn is_delete(&self) -> bool {
        matches!(self.change, Change::Delete(_))
    }
}

/// What a watch delivered at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The watch.
    pub watch: u64,
    /// When it arrived.
    pub at: u64,
    /// The range.
    pub range: u64,
    /// The range has been followed up to this revision.
    pub revision: u64,
    /// The changes; none in a bookmark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// One use of a resource that refuses tokens below the highest it has seen. The resource counts:
/// a user reads the count, and later writes the count it read plus one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The lock that protects it.
    pub lock: String,
    /// When.
    pub at: u64,
    /// Who.
    pub process: u32,
    /// Under which token.
    pub token: u64,
    /// Whether the resource let it happen.
    pub accepted: bool,
    /// A read: the count found. A write: the count written.
    pub count: u64,
    /// Whether it was a write.
    pub is_write: bool,
}

/// Accounts whose sum must be the same in every view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bank {
    /// How the keys of the accounts begin.
    pub prefix: String,
    /// How many there are.
    pub accounts: usize,
    /// Their sum.
    pub total: i64,
}

/// A fault, and whether it took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which.
    pub name: String,
    /// Since when.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// Whether it was seen to work.
    pub installed: bool,
}

/// The hash of what a replica held when it had applied the log up to an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The range.
    pub range: u64,
    /// The replica.
    pub replica: u64,
    /// Index of the last applied entry.
    pub index: u64,
    /// The hash.
    pub hash: u64,
}
