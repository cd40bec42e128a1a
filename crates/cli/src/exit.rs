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

/// Input or a request that is refused: ends with exit code 2.
#[derive(Debug)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// An error that ends the program with exit code 2.
pub fn refused(text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Refused(text.into()))
}
