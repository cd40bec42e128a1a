//! The kinds of faults.

use std::fmt;

macro_rules! kinds {
    ($($(#[$text:meta])* $kind:ident,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$text])* $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];
        }
    };
}

kinds! {
    /// One machine hears nobody and is heard by nobody.
    Isolate,
    /// A majority and a minority do not hear each other.
    Halves,
    /// Everybody hears a majority, and no two the same one.
    MajorityRing,
    /// Two halves share one machine that hears both.
    Bridge,
    /// One machine does not hear another, which hears it.
    OneWay,
    /// What two machines say to each other comes late, all at once.
    Hold,
    /// A link is slow, and reorders more.
    Latency,
    /// Links lose what is under way, again and again: connections stay half open.
    Flap,
    /// Clients and a machine do not hear each other.
    ClientCut,
    /// A process ends at once.
    Kill,
    /// The process that leads most ranges ends at once.
    KillLeader,
    /// A machine loses power.
    PowerCut,
    /// All machines lose power at once.
    PowerCutAll,
    /// A process is killed, and again during its recovery.
    KillInRecovery,
    /// A node stops in order and starts again.
    Restart,
    /// A process is stopped for a while, and goes on as if nothing had been.
    Pause,
    /// As `Pause`, where most ranges are led.
    PauseLeader,
    /// A leader is asked to hand over.
    Transfer,
    /// All leaders are asked to hand over, again and again.
    TransferStorm,
    /// A machine's clock runs up to ten per cent fast or slow.
    ClockRate,
    /// A machine's wall clock jumps.
    ClockJump,
    /// A machine's clocks stand still for a while. No read may rest on clocks then.
    ClockFreeze,
    /// Some calls on a disk fail with an I/O error.
    DiskError,
    /// A disk has no room for a while, or some writes are cut short by that.
    DiskFull,
    /// A sync fails; what it was for is lost, and the next one claims that all is well.
    SyncFails,
    /// A disk is many times slower.
    SlowDisk,
    /// A disk answers nothing for a while.
    HungDisk,
    /// A bit of a file is flipped.
    BitFlip,
    /// Some sectors of a file cannot be read.
    BadSector,
    /// A write goes to a wrong place of its file, or nowhere.
    StrayWrite,
    /// Syncs lie, and then the power goes.
    SyncLies,
    /// A machine comes back with an empty disk.
    Wipe,
    /// A machine loses power while it writes its journal, and some of what was written stays.
    TornWrite,
    /// A follower is away until it needs a snapshot, whose transfer then breaks off.
    SnapshotCut,
}

impl FaultKind {
    /// Whether it shows little but where a run is [made for it](super::Options::of).
    pub fn is_aimed(self) -> bool {
        matches!(self, Self::TornWrite | Self::SnapshotCut)
    }

    /// Whether it takes a machine's data away: only one machine of a run has such faults, so that
    /// a quorum of every range keeps a good copy.
    pub fn is_destructive(self) -> bool {
        matches!(
            self,
            Self::BitFlip | Self::BadSector | Self::StrayWrite | Self::SyncLies | Self::Wipe
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
