//! A journal alone: several groups with votes, truncations, purges, ends; crash images all along.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_env::sim::{Random, SimDisk};
use holdfast_journal::{Error, JournalOptions};

use crate::camera::{Camera, Image};
use crate::campaign::Sums;
use crate::options::{self, pick};
use crate::rig::{Rig, entries, ignore};
use crate::world::{World, matches, ops};

/// Pieces of work of a run, at least; at most twice as many.
const OPS_MIN: u64 = 150;
/// One image of so many is written to, and crashes again.
const GO_ON_EVERY: u64 = 16;

/// See the module.
pub fn run(seed: u64) -> Sums {
    let mut random = Random::new(seed);
    let options = options::journal(&mut random);
    let percent = pick(&mut random, &[100, 40]);
    let disk = SimDisk::new();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let claim = acknowledged.clone();
    let camera = Camera::on(&disk, percent, seed, move || claim.load(Ordering::SeqCst));
    let mut world = World::new(Rig::open(Arc::new(disk), options.clone()).unwrap());
    world.acknowledged = acknowledged;
    let mut sums = Sums::default();
    let mut count = OPS_MIN + random.below(OPS_MIN);
    for op in ops(random.u64(), count as usize) {
        match world.apply(op) {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        for image in camera.develop() {
            let rig = look_at(&image, &world, &options);
            image.count_in(&mut sums);
            count += 1;
            if count.is_multiple_of(GO_ON_EVERY) {
                go_on(rig, &options, random.u64(), &image.what);
                sums.images += 1;
            }
        }
    }
    assert!(matches(&world.model, &world.rig.journal));
    sums
}

fn open(disk: SimDisk, options: &JournalOptions, what: &str) -> Rig {
    let rig = Rig::open(Arc::new(disk), options.clone());
    let rig = rig.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(rig.recovery.hit, [], "{what}");
    assert_eq!(rig.recovery.damage, [], "{what}");
    rig
}

/// The image shows the state after some change, not before the last acknowledged one.
fn look_at(image: &Image<usize>, world: &World, options: &JournalOptions) -> Rig {
    let rig = open(image.disk.clone(), options, &image.what);
    let mut states = world.history[image.claim..].iter().rev();
    let is_shown = states.any(|model| matches(model, &rig.journal));
    assert!(is_shown, "{}: lost something acknowledged, or made something up", image.what);
    rig
}

/// Whatever the crash left behind, the journal goes on, and keeps that too.
fn go_on(mut rig: Rig, options: &JournalOptions, seed: u64, what: &str) {
    let mut appended = Vec::new();
    for group in rig.journal.groups() {
        let next = rig.journal.log_state(group).last.map_or(1, |last| last.index + 1);
        let fresh = entries(1_000, next..next + 2, 300);
        if rig.journal.append(group, fresh.clone(), ignore()).is_ok() {
            appended.push((group, next, fresh));
        }
    }
    while rig.journal.durable() < rig.journal.logical_end() {
        rig.writer.step().unwrap();
    }
    let rig = open(rig.disk.crash(50, seed), options, what);
    for (group, next, fresh) in appended {
        assert_eq!(rig.journal.read(group, next..next + 9, u64::MAX).unwrap(), fresh, "{what}");
    }
}
