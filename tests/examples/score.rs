//! Measures the scorecard, prints it and writes it down: `score [--seed N] [PART …]`. Parts that
//! are not named keep what they last came to; without names all are measured.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use holdfast_tests::score::{Machine, known, measure, page, parts};

/// Where the scorecard is written down.
const PAGE: &str = "tests/score/latest.md";
/// Where the parts keep what they came to.
const FOLDER: &str = "target/score";

fn commit() -> Result<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "the commit is not known");
    Ok(text.trim().to_owned())
}

fn score() -> Result<bool> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut seed = 1;
    if arguments.first().is_some_and(|first| first == "--seed") {
        seed = arguments.get(1).context("--seed wants a number")?.parse()?;
        arguments.drain(..2);
    }
    let (root, folder) = (Path::new("."), Path::new(FOLDER));
    let commit = commit()?;
    let own = std::env::current_exe()?;
    let parts = parts(own.parent().context("a program lies in a folder")?, seed);
    for name in &arguments {
        let is_one = parts.iter().any(|part| part.name == name);
        let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
        ensure!(is_one, "{name} is no part; there are {names:?}");
    }
    let mut measured = Vec::new();
    for part in parts {
        let is_wanted = arguments.is_empty() || arguments.iter().any(|name| name == part.name);
        let outcome = if is_wanted {
            println!("{}: {}", part.name, part.command);
            let outcome = measure(root, folder, &part, &commit)?;
            println!("    {} s: {}", outcome.seconds, outcome.lines.last().map_or("", |l| l));
            Some(outcome)
        } else {
            known(folder, &part)
        };
        measured.push((part, outcome));
    }
    let (page, all, missed) = page(&commit, seed, &Machine::here(), &measured);
    println!("{page}");
    fs::create_dir_all(Path::new(PAGE).parent().unwrap_or(root))?;
    fs::write(PAGE, &page)?;
    println!("score: {} of {all} figures met, {missed} missed, commit {commit}", all - missed);
    Ok(missed == 0)
}

fn main() -> ExitCode {
    match score() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::from(2)
        }
    }
}
