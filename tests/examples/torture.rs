//! Real processes put to the test from the command line; the last line sums up.
//!
//! ```text
//! torture run [--minutes 10] [--seconds 90] [--seed 1] [--only kind,…] [--stand 4] [--strikes 2]
//! torture availability [--events 30] [--only kill,pause,isolate,transfer,stop]
//! torture leases [--grants 5000] [--seed 1]
//! torture abuse [--seconds 60] [--seed 1]
//! torture judge HISTORY
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_testkit::check::{everything, judge};
use holdfast_tests::abuse::{BUDGET_MIB, abuse};
use holdfast_tests::availability::{Event, measure};
use holdfast_tests::nemesis::Kind;
use holdfast_tests::torture::Torture;
use holdfast_tests::{leases, punctuality};

/// Options of the command line: `--name value`.
struct Options(BTreeMap<String, String>);

impl Options {
    fn of(arguments: &[String], known: &[&str]) -> Result<Self> {
        let mut options = BTreeMap::new();
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { bail!("{} wants a value", pair[0]) };
            let name = name.strip_prefix("--").filter(|name| known.contains(name));
            let name =
                name.with_context(|| format!("{} is no option; there are {known:?}", pair[0]))?;
            options.insert(name.to_owned(), value.clone());
        }
        Ok(Self(options))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64> {
        match self.0.get(name) {
            Some(text) => text.parse().with_context(|| format!("--{name} {text}: not a number")),
            None => Ok(default),
        }
    }

    /// Those of `all` that were named, or all.
    fn only<T: Copy>(&self, all: &[T], name_of: impl Fn(T) -> String) -> Result<Vec<T>> {
        let Some(text) = self.0.get("only") else { return Ok(all.to_vec()) };
        let one = |name: &str| {
            let mut found = all.iter().copied().filter(|one| name_of(*one) == name);
            found.next().with_context(|| format!("--only {name}: there is no such thing"))
        };
        text.split(',').map(one).collect()
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime can be built");
    match runtime.block_on(command(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was as it must be.
async fn command(arguments: &[String]) -> Result<bool> {
    let [name, rest @ ..] = arguments else { bail!("run, availability, leases, abuse or judge?") };
    match name.as_str() {
        "run" => torture(rest).await,
        "availability" => availability(rest).await,
        "leases" => granted(rest).await,
        "abuse" => abused(rest).await,
        "judge" => judged(rest.first().context("judge which history?")?),
        _ => bail!("{name}: run, availability, leases, abuse or judge?"),
    }
}

async fn torture(rest: &[String]) -> Result<bool> {
    let known = ["minutes", "seconds", "seed", "only", "stand", "strikes"];
    let options = Options::of(rest, &known)?;
    let minutes = options.number("minutes", 10)?;
    let torture = Torture {
        seed: options.number("seed", 1)?,
        time: Duration::from_secs(options.number("seconds", minutes * 60)?),
        kinds: options.only(&Kind::ALL, |kind| kind.to_string())?,
        stand: Duration::from_secs(options.number("stand", 4)?),
        strikes: usize::try_from(options.number("strikes", 2)?)?,
    };
    let sum = torture.go(|line| println!("{line}")).await?;
    println!("{sum}");
    Ok(sum.is_good())
}

async fn availability(rest: &[String]) -> Result<bool> {
    let options = Options::of(rest, &["events", "only"])?;
    let events = usize::try_from(options.number("events", 30)?)?;
    let only = options.only(&Event::ALL, |event| format!("{event:?}").to_lowercase())?;
    let (mut met, mut words) = (0, Vec::new());
    for event in &only {
        let distribution = measure(*event, events).await?;
        println!("{}", distribution.line());
        met += usize::from(distribution.is_met());
        let (half, most) = (distribution.percentile(50), distribution.percentile(99));
        let most_ms = distribution.percentile(100).as_millis();
        let (half, name) = (half.as_millis(), format!("{event:?}").to_lowercase());
        words.push(format!("{name} p50 {half} ms p99 {} ms max {most_ms} ms", most.as_millis()));
    }
    let words = words.join(", ");
    println!("availability: {met} of {} met, {events} events each: {words}", only.len());
    Ok(met == only.len())
}

async fn granted(rest: &[String]) -> Result<bool> {
    let options = Options::of(rest, &["grants", "seed"])?;
    let seed = options.number("seed", 1)?;
    let grants = usize::try_from(options.number("grants", 5_000)?)?;
    match leases::grant(grants, seed).await {
        Ok(granted) => {
            println!(
                "leases: {} grants, {} sightings judged, {} kills, 0 early, 0 late, seed {seed}",
                granted.grants, granted.judged, granted.kills
            );
            Ok(true)
        }
        Err(error) => {
            println!("leases: FAILED, seed {seed}: {error:?}");
            Ok(false)
        }
    }
}

async fn abused(rest: &[String]) -> Result<bool> {
    let options = Options::of(rest, &["seconds", "seed"])?;
    let time = Duration::from_secs(options.number("seconds", 60)?);
    let seen = abuse(time, options.number("seed", 1)?).await?;
    seen.proofs.iter().for_each(|proof| println!("{proof}"));
    let limit = BUDGET_MIB * 6 / 5;
    let is_met = seen.rss_mib <= limit;
    println!(
        "abuse: RSS {} MiB at most, budget {BUDGET_MIB} MiB + 20 % = {limit} MiB, {} MiB put, {}",
        seen.rss_mib,
        seen.written_mib,
        if is_met { "met" } else { "MISSED" }
    );
    Ok(is_met)
}

/// Judges a history that was kept.
fn judged(path: &str) -> Result<bool> {
    let mut file = BufReader::new(File::open(path).with_context(|| path.to_owned())?);
    let history = holdfast_testkit::history::read(&mut file)?;
    let report = judge(&history, &everything(punctuality(&history)));
    println!("{report}");
    Ok(report.is_clean())
}
