//! `holdfast load`: many batches under way, one status a record, a report of what was rejected.
//!
//! Progress is noted in `$XDG_STATE_HOME/holdfast` (default `~/.local/state/holdfast`): the
//! number of lines below which every record is acknowledged. `--resume` continues there; loading
//! a line twice is harmless, it puts the same value again.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_client::{Client, Error};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::{Cli, Output};
use crate::exit::{Exit, refused};
use crate::output;
use crate::session;
use crate::transfer::format::{Format, LineRead, Lines, Record, parse};

/// Records of a batch.
const BATCH_RECORDS: usize = 500;
/// Bytes of a batch (a larger record goes alone).
const BATCH_BYTES: usize = 1 << 20;
/// Batches under way at once.
const BATCHES_IN_FLIGHT: usize = 8;
/// Rejected lines that are reported one by one.
const REPORTED_MAX: usize = 10;
/// A record the cluster could not take is offered again this many times.
const ATTEMPTS_MAX: u32 = 30;
/// Wait before it is offered again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How often the progress is noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Records of consecutive lines.
struct Pack {
    /// Line after the last one.
    end_line: u64,
    records: Vec<(u64, Record)>,
}

/// What became of the lines.
#[derive(Default)]
struct Tally {
    loaded: u64,
    rejected: u64,
    unknown: u64,
    reported: usize,
    failure: Option<Error>,
}

impl Tally {
    fn reject(&mut self, line: u64, why: &str) {
        self.rejected += 1;
        self.reported += 1;
        if self.reported <= REPORTED_MAX {
            output::note(&format!("line {line} rejected: {why}"));
        } else if self.reported == REPORTED_MAX + 1 {
            output::note("more rejected lines are counted, not listed");
        }
    }

    /// Takes the outcome of one batch; false: loading cannot go on.
    fn take(&mut self, failures: Vec<(u64, Error)>, records: usize) -> bool {
        self.loaded += (records - failures.len()) as u64;
        for (line, error) in failures {
            if error.is_unknown() {
                self.unknown += 1;
                self.failure.get_or_insert(error);
            } else if error.is_callers() && !matches!(error, Error::UnknownKeyspace(_)) {
                self.reject(line, &error.to_string());
            } else {
                self.failure.get_or_insert(error);
            }
        }
        self.failure.is_none()
    }
}

/// Writes the records of one batch; those the cluster could not take now are offered again.
async fn send(client: Client, pack: Pack) -> (u64, usize, Vec<(u64, Error)>) {
    let count = pack.records.len();
    let mut left = pack.records;
    let mut failures = Vec::new();
    for attempt in 1.. {
        let mut batch = client.batch();
        for (_, record) in &left {
            batch = batch.put(record.key.clone(), record.value.clone());
        }
        let answers = match batch.send().await {
            Ok(answers) => answers,
            Err(error) => left.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut again = Vec::new();
        for ((line, record), answer) in left.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                // A put of the same value may be repeated whatever became of the first.
                Err(error) if attempt < ATTEMPTS_MAX && retry(&error) => again.push((line, record)),
                Err(error) => failures.push((line, error)),
            }
        }
        left = again;
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    (pack.end_line, count, failures)
}

fn retry(error: &Error) -> bool {
    error.is_unknown() || error.is_retryable()
}

/// The number below which every line is settled, while batches end in any order.
#[derive(Default)]
struct Frontier {
    settled: u64,
    /// Batches that ended before an earlier one: first line → line after the last.
    early: BTreeMap<u64, u64>,
    starts: BTreeMap<u64, u64>,
}

impl Frontier {
    fn begin(&mut self, start: u64, end: u64) {
        self.starts.insert(end, start);
    }

    fn end(&mut self, end: u64) {
        let start = self.starts.remove(&end).unwrap_or(end);
        self.early.insert(start, end);
        while let Some(end) = self.early.remove(&self.settled) {
            self.settled = end;
        }
    }
}

/// Where the progress of loading a file into a keyspace is noted: "LINES LENGTH MODIFIED".
struct Note {
    place: Option<PathBuf>,
    /// Length and time of change of the file: another content has other lines.
    content: String,
}

impl Note {
    fn of(file: &Path, keyspace: &str) -> Self {
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(|| {
            std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"))
        });
        let place = state.zip(fs::canonicalize(file).ok()).map(|(state, file)| {
            let name = format!("{}\n{keyspace}", file.display());
            state
                .join("holdfast")
                .join(format!("load-{:016x}", holdfast_model::position(name.as_bytes())))
        });
        let content = fs::metadata(file).map(|known| {
            let changed = known.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            format!("{} {}", known.len(), changed.unwrap_or_default().as_nanos())
        });
        Self { place, content: content.unwrap_or_default() }
    }

    /// How many lines were settled; 0 where nothing is known of this content of the file.
    fn read(&self) -> u64 {
        let text = self.place.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let Some(text) = text else { return 0 };
        match text.trim().split_once(' ') {
            Some((lines, content)) if content == self.content => lines.parse().unwrap_or(0),
            _ => {
                output::note("the file has changed since it was loaded: from its first line");
                0
            }
        }
    }

    fn write(&self, lines: u64) {
        if let Some(path) = &self.place {
            // Without a note a resumed load begins anew: slower, not wrong.
            let _ = path.parent().map(fs::create_dir_all);
            let _ = fs::write(path, format!("{lines} {}\n", self.content));
        }
    }

    fn remove(&self) {
        if let Some(path) = &self.place {
            let _ = fs::remove_file(path);
        }
    }
}

fn bar() -> ProgressBar {
    if !output::decorated() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {pos} records, {per_sec}, {elapsed}");
    bar.set_style(style.expect("the template is constant"));
    bar
}

/// The next batch of the file; `None` at its end.
fn next_pack(
    lines: &mut Lines,
    format: Format,
    tally: &mut Tally,
    skip: u64,
) -> Result<Option<Pack>> {
    let mut records = Vec::new();
    let mut bytes = 0;
    while records.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
        match lines.next().map_err(|error| refused(format!("reading the file: {error}")))? {
            LineRead::End => {
                let pack = Pack { end_line: lines.number, records };
                return Ok(if pack.records.is_empty() { None } else { Some(pack) });
            }
            _ if lines.number <= skip => {}
            LineRead::TooLong => tally.reject(lines.number, "the line is longer than any record"),
            LineRead::Line(line) => match parse(format, &line) {
                Ok(record) => {
                    bytes += record.key.len() + record.value.len();
                    records.push((lines.number, record));
                }
                Err(why) => tally.reject(lines.number, &why),
            },
        }
    }
    Ok(Some(Pack { end_line: lines.number, records }))
}

/// Loads `file`.
///
/// # Errors
/// The file cannot be read.
pub async fn run(cli: &Cli, client: &Client, file: &Path, resume: bool) -> Result<Exit> {
    let started = Instant::now();
    let format = Format::of(file);
    let note = Note::of(file, &cli.keyspace);
    let skip = if resume { note.read() } else { 0 };
    let mut lines =
        Lines::open(file).map_err(|error| refused(format!("{}: {error}", file.display())))?;
    let mut tally = Tally::default();
    let mut frontier = Frontier { settled: skip, ..Frontier::default() };
    let (mut begin, mut ended, mut noted) = (skip, false, Instant::now());
    let mut under_way = FuturesUnordered::new();
    let bar = bar();
    loop {
        while !ended && tally.failure.is_none() && under_way.len() < BATCHES_IN_FLIGHT {
            match next_pack(&mut lines, format, &mut tally, skip)? {
                None => ended = true,
                Some(pack) => {
                    frontier.begin(begin, pack.end_line);
                    begin = pack.end_line;
                    under_way.push(send(client.clone(), pack));
                }
            }
        }
        let Some((end, count, failures)) = under_way.next().await else { break };
        if tally.take(failures, count) {
            frontier.end(end);
        }
        bar.set_position(tally.loaded);
        if noted.elapsed() >= NOTE_INTERVAL {
            note.write(frontier.settled);
            noted = Instant::now();
        }
    }
    bar.finish_and_clear();
    report(cli.output, &tally, skip, started.elapsed())?;
    conclude(&tally, &note, frontier.settled)
}

fn report(form: Output, tally: &Tally, skip: u64, took: Duration) -> Result<()> {
    let seconds = took.as_secs_f64();
    if form == Output::Json {
        let (loaded, rejected) = (tally.loaded, tally.rejected);
        output::line(
            &json!({
                "loaded": loaded, "rejected": rejected, "unknown": tally.unknown,
                "lines_skipped": skip, "seconds": seconds,
            })
            .to_string(),
        )?;
        return Ok(());
    }
    let rate = tally.loaded as f64 / seconds.max(1e-3);
    let skipped = if skip > 0 { format!(", {skip} lines skipped") } else { String::new() };
    output::line(&format!(
        "{} records loaded, {} rejected{skipped} in {seconds:.1} s ({rate:.0}/s)",
        tally.loaded, tally.rejected,
    ))?;
    Ok(())
}

fn conclude(tally: &Tally, note: &Note, settled: u64) -> Result<Exit> {
    match &tally.failure {
        Some(error) => {
            note.write(settled);
            output::note(&format!(
                "stopped: {error}; `load --resume` goes on after line {settled}"
            ));
            Ok(session::exit_of(error))
        }
        None => {
            note.remove();
            Ok(if tally.rejected == 0 { Exit::Done } else { Exit::Usage })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_forgotten_where_the_file_has_another_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.tsv");
        fs::write(&file, "a\t1\n").unwrap();
        let place = Some(folder.path().join("note"));
        let note = |file: &Path| Note { place: place.clone(), ..Note::of(file, "default") };
        note(&file).write(7);
        assert_eq!(note(&file).read(), 7);
        fs::write(&file, "a\t1\nb\t2\n").unwrap();
        assert_eq!(note(&file).read(), 0);
    }

    #[test]
    fn a_line_is_settled_only_when_all_before_it_are() {
        let mut frontier = Frontier::default();
        frontier.begin(0, 10);
        frontier.begin(10, 20);
        frontier.begin(20, 30);
        frontier.end(20);
        assert_eq!(frontier.settled, 0);
        frontier.end(10);
        assert_eq!(frontier.settled, 20);
        frontier.end(30);
        assert_eq!(frontier.settled, 30);
    }
}
