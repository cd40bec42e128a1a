//! Identifiers as newtypes, so that a node id can never be passed where a replica id is meant.

use std::fmt;

macro_rules! id_u64 {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! id_u128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl $name {
            /// The 16 bytes of the id, big-endian, as they travel on the wire.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// Reads an id from exactly 16 bytes; `None` for any other length.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                <[u8; 16]>::try_from(bytes).ok().map(|b| Self(u128::from_be_bytes(b)))
            }
        }
    };
}

id_u64!(
    /// One server process with one data directory. Starts at 1; 0 means "none".
    NodeId,
    "n"
);
id_u64!(
    /// One copy of a range on one node; never reused; openraft's node id. Allocated from 1000 up.
    ReplicaId,
    "r"
);
id_u64!(
    /// One span of one keyspace, replicated by one Raft group. 0 is the system range.
    RangeId,
    "g"
);
id_u64!(
    /// One keyspace. 0 is the system keyspace. Never reused, also when a name is created again.
    KeyspaceId,
    "k"
);
id_u64!(
    /// The dense version counter of a range: +1 for every transaction that changes something.
    ///
    /// A range starts at 1; the first change is 2.
    Revision,
    ""
);
id_u64!(
    /// How often a range's span has changed (splits); orders map copies of the range.
    RangeEpoch,
    "e"
);
id_u64!(
    /// Index of an entry in a range's Raft log.
    LogIndex,
    ""
);
id_u64!(
    /// Raft term.
    Term,
    "t"
);
id_u128!(
    /// Random identity of a cluster, drawn once by `cluster init`.
    ClusterId
);
id_u128!(
    /// Random identity of a data directory, drawn when the directory is first used.
    StoreId
);
id_u128!(
    /// Random identity of an SDK client, under which its sessions are opened.
    ClientId
);

/// A lease. It routes by the hash position in its upper half; the lower half tells leases apart.
///
/// Layout: bits 63..32 are the upper 32 bits of the hash position, bits 31..0 a number unique
/// in the range. 0 means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Builds the id of the `number`-th lease at `position`.
    pub fn new(position: u64, number: u32) -> Self {
        Self((position & 0xffff_ffff_0000_0000) | u64::from(number))
    }

    /// The point on the ring this lease routes by (its lower 32 bits are zero).
    pub fn position(self) -> u64 {
        self.0 & 0xffff_ffff_0000_0000
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
