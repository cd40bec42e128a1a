//! The file of a history: JSON lines.
//!
//! ```text
//! {"holdfast_history":1,"seed":7,"exclusive":true,"records":2}
//! {"operation":{"process":1,"call":10,"back":20,"request":{…},"outcome":{…}}}
//! {"batch":{…}}
//! ```
//!
//! The first line says the version and how many lines follow, so that half a file is not taken
//! for a short history.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::{History, Record};

/// The version this code writes and reads.
pub const VERSION: u32 = 1;
/// Longest line of a file; longer ones are damage.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Why a history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It was written by another version.
    #[error("history of version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// A line makes no sense.
    #[error("line {line}: {source}")]
    Malformed {
        /// Which, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// Lines are missing, or there are too many.
    #[error("{found} records instead of {expected}")]
    Length {
        /// What the first line says.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A line is longer than any that is written.
    #[error("line {0} has no end")]
    Endless(usize),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[derive(Serialize, Deserialize)]
struct Head {
    holdfast_history: u32,
    seed: u64,
    exclusive: bool,
    records: usize,
}

/// Writes `history` to `to`.
///
/// # Errors
/// [`FileError::Io`].
pub fn write(history: &History, to: &mut impl Write) -> Result<(), FileError> {
    let head = Head {
        holdfast_history: VERSION,
        seed: history.seed,
        exclusive: history.is_exclusive,
        records: history.records.len(),
    };
    line(&head, to)?;
    history.records.iter().try_for_each(|record| line(record, to))?;
    Ok(to.flush()?)
}

fn line(value: &impl Serialize, to: &mut impl Write) -> Result<(), FileError> {
    serde_json::to_writer(&mut *to, value).map_err(std::io::Error::from)?;
    Ok(to.write_all(b"\n")?)
}

/// Reads a history.
///
/// # Errors
/// [`FileError`]: it is not one, or not a whole one.
pub fn read(from: &mut impl BufRead) -> Result<History, FileError> {
    let mut text = String::new();
    next_line(from, &mut text, 1)?;
    let malformed = |line, source| FileError::Malformed { line, source };
    let head: Head = serde_json::from_str(&text).map_err(|source| malformed(1, source))?;
    if head.holdfast_history != VERSION {
        return Err(FileError::Version(head.holdfast_history));
    }
    let mut records: Vec<Record> = Vec::new();
    loop {
        let number = records.len() + 2;
        if !next_line(from, &mut text, number)? {
            break;
        }
        records.push(serde_json::from_str(&text).map_err(|source| malformed(number, source))?);
    }
    if records.len() != head.records {
        return Err(FileError::Length { expected: head.records, found: records.len() });
    }
    Ok(History { seed: head.seed, is_exclusive: head.exclusive, records })
}

/// Reads one line into `text`; false at the end.
fn next_line(from: &mut impl BufRead, text: &mut String, number: usize) -> Result<bool, FileError> {
    text.clear();
    let bound = LINE_BYTES_MAX as u64;
    let taken = std::io::Read::take(&mut *from, bound).read_line(text)?;
    if taken == LINE_BYTES_MAX && !text.ends_with('\n') {
        return Err(FileError::Endless(number));
    }
    Ok(taken > 0)
}
