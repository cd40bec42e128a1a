//! Images of a disk between any two of its calls.

use std::sync::{Arc, Mutex};

use holdfast_env::sim::{Random, SimDisk};

use crate::campaign::Sums;

/// Shares of what was not synced that an image may keep.
pub const KEEP_PERCENT: [u8; 5] = [0, 5, 50, 95, 100];

/// A disk as a power cut may leave it, with what was promised at that moment.
pub struct Image<C> {
    pub disk: SimDisk,
    /// What was promised.
    pub claim: C,
    /// For messages: before which mutation, and how much of the rest was kept.
    pub what: String,
    /// Whether it is the first one of its moment.
    is_first: bool,
}

impl<C> Image<C> {
    /// Counts it among those that were looked at.
    pub fn count_in(&self, sums: &mut Sums) {
        sums.points += u64::from(self.is_first);
        sums.images += 1;
    }
}

/// Takes images of one disk.
pub struct Camera<C> {
    taken: Arc<Mutex<Vec<Image<C>>>>,
}

impl<C: Clone + Send + 'static> Camera<C> {
    /// Watches `disk`: before `percent` of the calls that change it, one image of each share is
    /// taken, together with what `claim` says at that moment.
    pub fn on(
        disk: &SimDisk,
        percent: u8,
        seed: u64,
        claim: impl Fn() -> C + Send + Sync + 'static,
    ) -> Self {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let random = Mutex::new(Random::new(seed));
        let film = taken.clone();
        disk.watch(move |disk, call| {
            let mut random = random.lock().unwrap();
            if !call.operation.is_mutating() || !random.chance(percent) {
                return;
            }
            let (operation, path) = (call.operation, call.path.display());
            for (i, keep) in KEEP_PERCENT.into_iter().enumerate() {
                let what = format!("before {operation:?} of {path}, {keep} % kept");
                let disk = disk.image(keep, random.u64());
                let image = Image { disk, claim: claim(), what, is_first: i == 0 };
                film.lock().unwrap().push(image);
            }
        });
        Self { taken }
    }

    /// The images since the last time.
    pub fn develop(&self) -> Vec<Image<C>> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}
