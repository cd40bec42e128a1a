//! Alarms of an etcd keyspace.

use prost::Message;

/// Lists, raises or clears alarms.
///
/// An alarm is of a member and of a kind. While one of [`EtcdAlarmKind::NoSpace`] is raised the
/// range refuses what stores something; while one of [`EtcdAlarmKind::Corrupt`] is, it refuses
/// everything about keys and leases.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct EtcdAlarm {
    /// What to do.
    #[prost(enumeration = "EtcdAlarmAction", tag = "1")]
    pub action: i32,
    /// The member an alarm is about. Of a list: not used.
    #[prost(uint64, tag = "2")]
    pub member: u64,
    /// The kind; of a list, `None` lists all.
    #[prost(enumeration = "EtcdAlarmKind", tag = "3")]
    pub kind: i32,
}

/// What to do with an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EtcdAlarmAction {
    /// Tells which are raised.
    List = 0,
    /// Raises it, unless it is raised; `None` cannot be raised.
    Raise = 1,
    /// Clears it, if it is raised.
    Clear = 2,
}

/// What an alarm says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EtcdAlarmKind {
    /// Nothing.
    None = 0,
    /// The member has no room for more.
    NoSpace = 1,
    /// The member's data differ from the others'.
    Corrupt = 2,
}
