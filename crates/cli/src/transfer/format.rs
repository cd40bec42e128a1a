//! The two text formats of `load` and `dump`.
//!
//! TSV: the first TAB splits key from value, LF ends the record, nothing is escaped. A key with
//! a TAB or LF, or a value with an LF, does not fit. JSON Lines: one object a line,
//! `{"key": …, "value": …}` with text, or `key_base64` / `value_base64` for bytes that are not
//! UTF-8. A name that ends in `.gz` is compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use holdfast_model::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// Longest line that is read; a longer one is rejected without being held in memory.
const LINE_BYTES_MAX: usize = 2 * (KEY_BYTES_MAX + VALUE_BYTES_MAX);

/// One of the two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Key TAB value LF.
    Tsv,
    /// One JSON object a line.
    Jsonl,
}

impl Format {
    /// The format a file name asks for: `.jsonl`, `.ndjson` and `.json` (also with `.gz`) are
    /// JSON Lines, everything else is TSV.
    pub fn of(path: &Path) -> Self {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let json = [".jsonl", ".ndjson", ".json"].iter().any(|end| name.ends_with(end));
        if json { Self::Jsonl } else { Self::Tsv }
    }
}

/// A record to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Reads one line (without its LF).
///
/// # Errors
/// What is wrong with it, as a clause for the report of rejected lines.
pub fn parse(format: Format, line: &[u8]) -> Result<Record, String> {
    let record = match format {
        Format::Tsv => parse_tsv(line)?,
        Format::Jsonl => parse_json(line)?,
    };
    if record.key.is_empty() {
        return Err("the key is empty".into());
    }
    check("key", record.key.len(), KEY_BYTES_MAX)?;
    check("value", record.value.len(), VALUE_BYTES_MAX)?;
    Ok(record)
}

fn check(what: &str, given: usize, limit: usize) -> Result<(), String> {
    if given <= limit {
        return Ok(());
    }
    Err(format!("{what}: at most {limit} bytes, given {given}"))
}

fn parse_tsv(line: &[u8]) -> Result<Record, String> {
    let tab = line.iter().position(|b| *b == b'\t').ok_or("no TAB between key and value")?;
    let (key, rest) = line.split_at(tab);
    let value = rest.get(1..).unwrap_or_default();
    Ok(Record { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) })
}

fn parse_json(line: &[u8]) -> Result<Record, String> {
    let line: Line =
        serde_json::from_slice(line).map_err(|e| format!("not the JSON asked for: {e}"))?;
    Ok(Record {
        key: field("key", line.key, line.key_base64)?,
        value: field("value", line.value, line.value_base64)?,
    })
}

fn field(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(code)) => {
            BASE64.decode(code).map(Bytes::from).map_err(|e| format!("{name}_base64: {e}"))
        }
        (None, None) => Err(format!("neither {name} nor {name}_base64")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64")),
    }
}

/// Writes one record as a line, LF included.
///
/// # Errors
/// TSV only: the bytes do not fit; JSON Lines can hold them.
pub fn write(format: Format, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    match format {
        Format::Tsv => {
            if key.iter().any(|b| matches!(b, b'\t' | b'\n')) || value.contains(&b'\n') {
                let key = String::from_utf8_lossy(key);
                return Err(format!(
                    "key {key:?} or its value has a TAB or LF that TSV cannot hold; \
                     use --format jsonl"
                ));
            }
            out.extend_from_slice(key);
            out.push(b'\t');
            out.extend_from_slice(value);
        }
        Format::Jsonl => {
            let mut line = Line::default();
            match std::str::from_utf8(key) {
                Ok(text) => line.key = Some(text.to_owned()),
                Err(_) => line.key_base64 = Some(BASE64.encode(key)),
            }
            match std::str::from_utf8(value) {
                Ok(text) => line.value = Some(text.to_owned()),
                Err(_) => line.value_base64 = Some(BASE64.encode(value)),
            }
            serde_json::to_writer(&mut *out, &line).map_err(|e| e.to_string())?;
        }
    }
    out.push(b'\n');
    Ok(())
}

/// Lines of a file, decompressed if its name ends in `.gz`.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// Number of the line last returned, from 1.
    pub number: u64,
}

/// What [`Lines::next`] found.
pub enum LineRead {
    /// A line without its LF.
    Line(Vec<u8>),
    /// A line over the bound; it was skipped.
    TooLong,
    /// The end.
    End,
}

impl Lines {
    /// Opens a file; `-` is standard input.
    pub fn open(path: &Path) -> io::Result<Self> {
        let raw: Box<dyn BufRead + Send> = if path == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, File::open(path)?))
        };
        let compressed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
        let reader: Box<dyn BufRead + Send> = if compressed {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw)))
        } else {
            raw
        };
        Ok(Self { reader, number: 0 })
    }

    /// The next line.
    pub fn next(&mut self) -> io::Result<LineRead> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let (part, ended) = match buffer.iter().position(|b| *b == b'\n') {
                Some(end) => (buffer.get(..end).unwrap_or_default(), true),
                None => (buffer, false),
            };
            let consumed = part.len() + usize::from(ended);
            too_long |= line.len() + part.len() > LINE_BYTES_MAX;
            if !too_long {
                line.extend_from_slice(part);
            }
            self.reader.consume(consumed);
            if ended {
                self.number += 1;
                return Ok(if too_long { LineRead::TooLong } else { LineRead::Line(line) });
            }
        }
        if line.is_empty() && !too_long {
            return Ok(LineRead::End);
        }
        self.number += 1;
        Ok(if too_long { LineRead::TooLong } else { LineRead::Line(line) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(format: Format, key: &[u8], value: &[u8]) -> Result<Record, String> {
        let mut out = Vec::new();
        write(format, key, value, &mut out)?;
        assert_eq!(out.pop(), Some(b'\n'));
        parse(format, &out)
    }

    #[test]
    fn both_formats_give_back_what_was_written() {
        for (key, value) in
            [(&b"k"[..], &b"v"[..]), (b"k k", b""), (b"k", b"a\tb"), (b"\xff", b"\x00\xfe")]
        {
            for format in [Format::Tsv, Format::Jsonl] {
                let record = round(format, key, value).unwrap();
                assert_eq!((&record.key[..], &record.value[..]), (key, value));
            }
        }
        assert!(round(Format::Tsv, b"k", b"a\nb").unwrap_err().contains("jsonl"));
        assert!(round(Format::Tsv, b"k\tx", b"a").unwrap_err().contains("jsonl"));
        assert!(round(Format::Jsonl, b"k\tx", b"a\nb").is_ok());
    }

    #[test]
    fn a_bad_line_says_what_is_wrong() {
        for (format, line, clause) in [
            (Format::Tsv, &b"no tab"[..], "no TAB"),
            (Format::Tsv, b"\tvalue", "empty"),
            (Format::Jsonl, b"{", "JSON"),
            (Format::Jsonl, b"{\"key\":\"a\"}", "value"),
            (Format::Jsonl, b"{\"key\":\"a\",\"key_base64\":\"YQ==\",\"value\":\"\"}", "both"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value_base64\":\"?\"}", "base64"),
            (Format::Jsonl, b"{\"key\":\"a\",\"value\":\"\",\"extra\":1}", "JSON"),
        ] {
            let clause_found = parse(format, line).unwrap_err();
            assert!(clause_found.contains(clause), "{clause_found} / {clause}");
        }
        let long = [vec![b'k'; KEY_BYTES_MAX + 1], b"\tv".to_vec()].concat();
        assert_eq!(parse(Format::Tsv, &long).unwrap_err(), "key: at most 4096 bytes, given 4097");
    }

    #[test]
    fn the_name_of_a_file_tells_its_format() {
        assert_eq!(Format::of(Path::new("a.tsv.gz")), Format::Tsv);
        assert_eq!(Format::of(Path::new("a.jsonl.gz")), Format::Jsonl);
        assert_eq!(Format::of(Path::new("a.JSON")), Format::Jsonl);
        assert_eq!(Format::of(Path::new("a")), Format::Tsv);
    }
}
