//! An engine alone: random work under random options, and crash images all along.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use holdfast_env::sim::{Random, SimDisk};
use holdfast_lsm::Owns;
use holdfast_model::LogIndex;

use crate::camera::{Camera, Image, KEEP_PERCENT};
use crate::campaign::Sums;
use crate::command::Command;
use crate::harness::{World, check, open_engine};
use crate::options::{self, pick};

/// Steps of a run, at least; at most twice as many.
const STEPS_MIN: u64 = 60;

/// See the module.
pub fn run(seed: u64) -> Sums {
    let mut random = Random::new(seed);
    let engine_options = options::engine(&mut random);
    let percent = pick(&mut random, &[100, 40]);
    let disk = SimDisk::new();
    let known = Arc::new(AtomicU64::new(0));
    let mut camera = film(&disk, percent, seed, &known);
    let world = World::on(disk, engine_options).unwrap();
    let is_uniform = seed.is_multiple_of(4);
    let mut run = Run { world, random, known, spans: 0, is_uniform, was_reopened: false };
    let mut sums = Sums::default();
    run.develop(&camera, &mut sums);
    for _ in 0..STEPS_MIN + run.random.below(STEPS_MIN) {
        let before = run.world.disk.clone();
        run.step();
        run.develop(&camera, &mut sums);
        if run.was_reopened {
            before.unwatch();
            camera = film(&run.world.disk, percent, run.random.u64(), &run.known);
            run.was_reopened = false;
        }
    }
    run.world.check();
    run.world.flush();
    run.develop(&camera, &mut sums);
    run.world.check();
    run.world.restart();
    run.world.check();
    sums
}

fn film(disk: &SimDisk, percent: u8, seed: u64, known: &Arc<AtomicU64>) -> Camera<u64> {
    let known = known.clone();
    Camera::on(disk, percent, seed, move || known.load(Ordering::Relaxed))
}

struct Run {
    world: World,
    random: Random,
    /// Index up to which the engine said that it is durable.
    known: Arc<AtomicU64>,
    /// How often the span changed.
    spans: u64,
    is_uniform: bool,
    was_reopened: bool,
}

impl Run {
    fn step(&mut self) {
        match self.random.below(64) {
            0..34 => self.write(),
            34..40 => self.world.engine.seal(),
            40..52 => {
                // Several may be in hand at once, and end in any order.
                let engine = &self.world.engine;
                let in_hand = 1 + self.random.below(3);
                let jobs: Vec<_> = (0..in_hand).map_while(|_| engine.next_job()).collect();
                jobs.into_iter().rev().for_each(|job| job.run().unwrap());
            }
            52..55 => drop(self.world.work().unwrap()),
            55..59 => {
                let revision = self.world.model.point.revision.0;
                self.world.set_watermark(self.random.below(revision + 1));
            }
            59 => self.move_span(),
            60 => {
                let image = self.world.disk.kill();
                self.reopen(image);
            }
            61 => {
                let keep = pick(&mut self.random, &KEEP_PERCENT);
                let image = self.world.disk.crash(keep, self.random.u64());
                self.reopen(image);
            }
            _ => self.world.check(),
        }
        let durable = self.world.engine.durable_point().index.0;
        self.known.store(durable, Ordering::Relaxed);
    }

    fn write(&mut self) {
        let command = Command::random(&mut self.random, self.is_uniform);
        self.world.write_ops(&command.ops);
    }

    /// A part of the keys moves away with the entry applied last.
    fn move_span(&mut self) {
        if self.spans > 0 || self.world.model.point.index.0 == 0 {
            return;
        }
        let bound = Bytes::from_static(b"user/");
        self.world.model.moved = Some((self.world.model.point.index.0, bound));
        self.say_span();
    }

    fn say_span(&mut self) {
        let Some((since, bound)) = self.world.model.moved.clone() else { return };
        self.spans += 1;
        let owns: Owns = Arc::new(move |key| key < bound.as_ref());
        self.world.engine.set_span(self.spans, LogIndex(since), owns);
    }

    fn reopen(&mut self, image: SimDisk) {
        self.world.reopen_on(image).unwrap();
        let index = self.world.model.point.index.0;
        // What the state does not know yet did not happen.
        self.world.model.moved.take_if(|(since, _)| *since > index);
        self.say_span();
        self.world.check();
        self.was_reopened = true;
    }

    fn develop(&mut self, camera: &Camera<u64>, sums: &mut Sums) {
        for image in camera.develop() {
            self.look_at(&image);
            image.count_in(sums);
        }
    }

    fn look_at(&self, image: &Image<u64>) {
        let World { dir, durable, options, .. } = &self.world;
        let engine = open_engine(&image.disk, dir, durable, options, 9)
            .unwrap_or_else(|error| panic!("{}: {error}", image.what));
        let point = engine.durable_point();
        assert!(point.index.0 >= image.claim, "{}: lost what was durable", image.what);
        let mut model = self.world.model.clone();
        assert!(point.index <= model.point.index, "{}: made up", image.what);
        model.fall_back(point);
        check(&engine, &model);
    }
}
