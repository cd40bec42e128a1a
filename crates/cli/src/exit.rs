//! Exit codes: what a script can rely on.

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the answer is no (missing key, failed condition).
    No,
    /// 2: usage or refused input.
    Usage,
    /// 3: server or network error; nothing happened.
    Failed,
    /// 4: the outcome is unknown.
    Unknown,
    /// What a command run under a lock ended with.
    Child(u8),
}

impl Exit {
    /// The number for the operating system.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Failed => 3,
            Self::Unknown => 4,
            Self::Child(code) => code,
        }
    }
}
