//! The campaigns by name, one seed of one campaign, and what came of it.

use std::cell::{Cell, RefCell};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::{engine, faults, journal, node};

/// What one or many runs tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Seeds run.
    pub seeds: u64,
    /// Moments of which crash images were opened and compared.
    pub points: u64,
    /// The images: several of each moment, and of what opening them left.
    pub images: u64,
    /// Single faults that were really there.
    pub faults: u64,
    /// Of these: noticed.
    pub detected: u64,
    /// Of these: without any effect on any answer.
    pub harmless: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.points += other.points;
        self.images += other.images;
        self.faults += other.faults;
        self.detected += other.detected;
        self.harmless += other.harmless;
    }
}

/// One kind of random run.
#[derive(Clone, Copy)]
pub struct Campaign {
    /// What the command line calls it.
    pub name: &'static str,
    /// What it does.
    pub sentence: &'static str,
    /// Runs one seed; panics at the first wrong answer.
    pub run: fn(u64) -> Sums,
}

/// Every deterministic campaign.
pub const ALL: [Campaign; 5] = [
    Campaign {
        name: "engine",
        sentence: "crash images and restarts of an engine under random options",
        run: engine::run,
    },
    Campaign {
        name: "journal",
        sentence: "crash images of a journal of several groups",
        run: journal::run,
    },
    Campaign {
        name: "node",
        sentence: "crash images of engines and journal as replicas use them",
        run: node::run,
    },
    Campaign {
        name: "platter",
        sentence: "single damages of files at rest, and of a snapshot being staged",
        run: faults::run_platter,
    },
    Campaign {
        name: "flight",
        sentence: "single faults of calls of the disk while it is worked with",
        run: faults::run_flight,
    },
];

/// The campaign called `name`.
pub fn named(name: &str) -> Option<Campaign> {
    ALL.into_iter().find(|campaign| campaign.name == name)
}

thread_local! {
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

static QUIET: Once = Once::new();

/// Adds `what` to the message of the panic that unwinds this thread, if one does.
pub(crate) fn note(what: &str) {
    if std::thread::panicking() {
        MESSAGE.with_borrow_mut(|message| {
            if let Some(message) = message {
                message.insert_str(0, &format!("{what}: "));
            }
        });
    }
}

/// Runs one seed; what it panicked with is the error.
pub fn run_seed(campaign: Campaign, seed: u64) -> Result<Sums, String> {
    guarded(|| (campaign.run)(seed)).map(|sums| Sums { seeds: 1, ..sums })
}

/// Runs `work`; what it panicked with is the error, and is not printed.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match IS_GUARDED.get() {
            true => MESSAGE.with_borrow_mut(|message| *message = Some(info.to_string())),
            false => loud(info),
        }));
    });
    IS_GUARDED.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(false);
    outcome.map_err(|_| {
        let message = MESSAGE.with_borrow_mut(Option::take).unwrap_or_default();
        message.chars().take(MESSAGE_CHARS_MAX).collect()
    })
}

/// Two models that differ print much; the beginning says enough.
const MESSAGE_CHARS_MAX: usize = 600;

/// How to run a seed again.
pub fn replay_line(campaign: &str, seed: u64) -> String {
    format!("make storm-storage REPLAY=\"{campaign} {seed}\"")
}
