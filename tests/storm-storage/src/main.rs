//! The long run: images, faults, kills, peers, and every seeded defect caught. The last line sums
//! up; the exit code says whether anything was missed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use holdfast_env::defects::{self, Defect, Part};
use holdfast_storm_storage::campaign::{self, Campaign, Sums, guarded, replay_line, run_seed};
use holdfast_storm_storage::{kill, seeds};

/// Seeds tried on a defect, per campaign, before it counts as missed.
const SEEDS_PER_DEFECT: u64 = 150;
/// Work may be in so many hands at once.
const THREADS_MAX: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [kill::CHILD, dir, seed] => {
            kill::child(Path::new(dir), seed.parse().expect("a seed is a number"));
            ExitCode::SUCCESS
        }
        ["replay", name, seed] => replay(name, seed),
        [] => storm(&Effort::from_environment()),
        _ => {
            eprintln!("storm-storage [replay CAMPAIGN SEED]");
            ExitCode::from(2)
        }
    }
}

/// Runs one seed, as a failure said it.
fn replay(name: &str, seed: &str) -> ExitCode {
    let (Some(campaign), Ok(seed)) = (campaign::named(name), seed.parse()) else {
        eprintln!("there is no {name} {seed}");
        return ExitCode::from(2);
    };
    match run_seed(campaign, seed) {
        Ok(sums) => {
            println!("{name} {seed}: {} images, {} faults, none bad", sums.images, sums.faults);
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("{name} {seed}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// How much to do.
struct Effort {
    images: u64,
    faults: u64,
    kills: u64,
    #[cfg(feature = "fjall")]
    peers: u64,
    seed: u64,
}

impl Effort {
    fn from_environment() -> Self {
        let number = |name: &str, default: u64| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.map_or(default, |value| value.parse().expect("a number"))
        };
        Self {
            images: number("IMAGES", 200_000),
            faults: number("FAULTS", 20_000),
            kills: number("KILLS", 300),
            #[cfg(feature = "fjall")]
            peers: number("PEERS", 20),
            seed: number("SEED", 1),
        }
    }
}

/// What was not as it should be.
#[derive(Default)]
struct Failures(Mutex<Vec<String>>);

impl Failures {
    fn add(&self, line: String) {
        println!("{line}");
        self.0.lock().expect("no holder panics").push(line);
    }
}

fn storm(effort: &Effort) -> ExitCode {
    let start = Instant::now();
    let failures = Failures::default();
    for (campaign, seed) in seeds::kept() {
        if let Err(message) = run_seed(campaign, seed) {
            failures.add(failure(campaign, seed, &message));
        }
    }
    let caught = catch_defects(effort, &failures);
    let (mut sums, mut last) = (Sums::default(), effort.seed);
    // Of the images the campaigns make thirds, of the faults damages at rest most.
    let shares = [(effort.images / 3, 0), (effort.images / 3, 0), (effort.images / 3 + 2, 0)];
    let shares = shares.into_iter().chain([(0, effort.faults * 19 / 20), (0, effort.faults / 20)]);
    for (campaign, target) in campaign::ALL.into_iter().zip(shares) {
        let (done, upto) = run_campaign(campaign, target, effort.seed, &failures);
        sums += done;
        last = last.max(upto);
    }
    let kills = kill_loop(effort, &failures);
    let peers = compare_with_peers(effort, &failures);
    let failed = failures.0.lock().expect("no holder panics").len();
    let bad = |word: &str| {
        let lines = failures.0.lock().expect("no holder panics");
        lines.iter().filter(|line| line.starts_with(word)).count()
    };
    println!(
        "storm-storage: {} crash points, {} images {} bad, {} faults {} undetected ({} detected, \
         {} harmless), {caught}/{} defects caught, {kills}, {peers}, seeds {}..{last}, {} s{}",
        sums.points,
        sums.images,
        bad("image"),
        sums.faults,
        bad("fault"),
        sums.detected,
        sums.harmless,
        defects::of(Part::Storage).count(),
        effort.seed,
        start.elapsed().as_secs(),
        if failed == 0 { "" } else { ": FAILED" },
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failure(campaign: Campaign, seed: u64, message: &str) -> String {
    let kind = if is_about_images(campaign) { "image" } else { "fault" };
    let again = replay_line(campaign.name, seed);
    format!("{kind}: {} {seed}: {message}\n  again: {again}", campaign.name)
}

fn is_about_images(campaign: Campaign) -> bool {
    matches!(campaign.name, "engine" | "journal" | "node")
}

/// Runs seeds on all cores until `(images, faults)` are reached; also returns the last seed.
fn run_campaign(
    campaign: Campaign,
    target: (u64, u64),
    first: u64,
    failures: &Failures,
) -> (Sums, u64) {
    let start = Instant::now();
    let (next, sums) = (AtomicU64::new(first), Mutex::new(Sums::default()));
    let is_reached = |sums: &Sums| sums.images >= target.0 && sums.faults >= target.1;
    on_all_cores(|| {
        while !is_reached(&sums.lock().expect("no holder panics")) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            match run_seed(campaign, seed) {
                Ok(done) => *sums.lock().expect("no holder panics") += done,
                Err(message) => {
                    failures.add(failure(campaign, seed, &message));
                    return;
                }
            }
        }
    });
    let sums = sums.into_inner().expect("no holder panics");
    let last = next.load(Ordering::Relaxed) - 1;
    println!(
        "{:8} {}: {} images, {} faults, seeds {first}..{last}, {:.1} s",
        campaign.name,
        campaign.sentence,
        sums.images,
        sums.faults,
        start.elapsed().as_secs_f64()
    );
    (sums, last)
}

fn on_all_cores(work: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

/// Switches every defect on in turn; the campaigns that look for real ones must find it.
fn catch_defects(effort: &Effort, failures: &Failures) -> usize {
    let mut caught = 0;
    for defect in defects::of(Part::Storage) {
        match catch(defect, effort.seed) {
            Some((campaign, seed, _)) if run_seed(campaign, seed).is_err() => {
                failures.add(format!("defect: {} {seed} fails without any", campaign.name));
            }
            Some((campaign, seed, message)) => {
                caught += 1;
                let message: String =
                    message.lines().next().unwrap_or("").chars().take(160).collect();
                println!("caught   {}: {} {seed}: {message}", defect.name, campaign.name);
            }
            None => failures.add(format!("defect: {} was not caught", defect.name)),
        }
    }
    caught
}

/// The campaign and seed that caught `defect`, and what they said.
fn catch(defect: Defect, first: u64) -> Option<(Campaign, u64, String)> {
    defects::enable(defect.name).expect("the table names it");
    let found = Mutex::new(None);
    let next = AtomicU64::new(0);
    on_all_cores(|| {
        while found.lock().expect("no holder panics").is_none() {
            // One seed of every campaign, then the next seed: nobody knows who will notice.
            let at = next.fetch_add(1, Ordering::Relaxed);
            let campaigns = campaign::ALL.len() as u64;
            let (campaign, seed) = (campaign::ALL[(at % campaigns) as usize], at / campaigns);
            if seed >= SEEDS_PER_DEFECT {
                return;
            }
            if let Err(message) = run_seed(campaign, first + seed) {
                let mut found = found.lock().expect("no holder panics");
                found.get_or_insert((campaign, first + seed, message));
            }
        }
    });
    defects::disable(defect.name).expect("the table names it");
    found.into_inner().expect("no holder panics")
}

fn kill_loop(effort: &Effort, failures: &Failures) -> String {
    let start = Instant::now();
    let program = std::env::current_exe().expect("a program knows itself");
    let scratch = tempfile::tempdir().expect("there is room for scratch files");
    let run = || kill::run(&program, scratch.path(), effort.kills, effort.seed);
    match guarded(run) {
        Ok(found) => {
            let seconds = start.elapsed().as_secs_f64();
            println!("kill     {} processes, {found} acknowledged, {seconds:.1} s", effort.kills);
            format!("{} kills 0 lost of {found}", effort.kills)
        }
        Err(message) => {
            failures.add(format!("kill: seed {}: {message}", effort.seed));
            "kills FAILED".to_owned()
        }
    }
}

#[cfg(feature = "fjall")]
fn compare_with_peers(effort: &Effort, failures: &Failures) -> String {
    use holdfast_storm_storage::differential;
    let start = Instant::now();
    let scratch = tempfile::tempdir().expect("there is room for scratch files");
    let mut compared = 0;
    for seed in effort.seed..effort.seed + effort.peers {
        let dir = scratch.path().join(seed.to_string());
        match guarded(|| differential::run(&dir, seed)) {
            Ok(answers) => compared += answers,
            Err(message) => failures.add(format!("peer: seed {seed}: {message}")),
        }
        std::fs::remove_dir_all(&dir).expect("scratch files can be removed");
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("peer     {compared} answers equal fjall's, {seconds:.1} s");
    format!("{compared} answers equal fjall's")
}

#[cfg(not(feature = "fjall"))]
fn compare_with_peers(_: &Effort, _: &Failures) -> String {
    "no peer".to_owned()
}
