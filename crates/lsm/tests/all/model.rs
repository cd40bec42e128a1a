//! Random operations under random options give the answers of the model.

use bytes::Bytes;
use holdfast_env::sim::SimDisk;
use holdfast_lsm::{CompactionStyle, Compression, EngineOptions, ExpiresAt, Family, Staging};
use proptest::prelude::*;

use crate::harness::{Op, World, check, open_engine};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Op>),
    Seal,
    Job,
    Work,
    Watermark(u8),
    Restart,
    Crash { keep_percent: u8, seed: u64 },
    Checkpoint,
    Transfer,
    Check,
}

fn key() -> impl Strategy<Value = Bytes> {
    let prefix = prop_oneof![Just(""), Just("a"), Just("user/"), Just("user/profile/")];
    (prefix, 0..12u8).prop_map(|(prefix, n)| Bytes::from(format!("{prefix}{n:x}")))
}

fn value() -> impl Strategy<Value = Option<Bytes>> {
    let filled = |bytes: std::ops::Range<usize>| {
        (bytes, any::<u8>()).prop_map(|(n, fill)| Some(Bytes::from(vec![fill; n])))
    };
    prop_oneof![
        3 => Just(None),
        8 => filled(0..64),
        2 => filled(64..2_000),
        1 => filled(4_000..9_000),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![4 => Just(Family::Data), 2 => prop::sample::select(&Family::ALL[..])]
}

fn change() -> impl Strategy<Value = Op> {
    let set =
        (family(), key(), value()).prop_map(|(family, key, value)| Op::Set(family, key, value));
    let range = (family(), key(), key())
        .prop_map(|(family, start, end)| Op::DeleteRange(family, start, end));
    prop_oneof![12 => set, 1 => range]
}

fn crash() -> impl Strategy<Value = Step> {
    let keep = prop::sample::select(&[0u8, 5, 50, 95, 100][..]);
    (keep, any::<u64>()).prop_map(|(keep_percent, seed)| Step::Crash { keep_percent, seed })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => prop::collection::vec(change(), 1..12).prop_map(Step::Write),
        5 => Just(Step::Seal),
        8 => Just(Step::Job),
        3 => Just(Step::Work),
        4 => (0..=100u8).prop_map(Step::Watermark),
        1 => Just(Step::Restart),
        1 => crash(),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Transfer),
        3 => Just(Step::Check),
    ]
}

fn options() -> impl Strategy<Value = EngineOptions> {
    let compression = prop::sample::select(&[Compression::None, Compression::Lz4][..]);
    let sizes = (12..17u32, 8..13u32, 12..16u32, 12..16u32);
    let counts = (1..9usize, 1..16usize, 1..4usize, 2..5u64, 10..13u32);
    let partitions = (6..14u32, prop_oneof![Just(0u64), Just(1_000), Just(u64::MAX)]);
    let blobs = (6..16u32, 10..15u32);
    let style = prop::sample::select(&[CompactionStyle::Leveled, CompactionStyle::Tiered][..]);
    let all = (sizes, counts, partitions, blobs, style, [compression.clone(), compression]);
    all.prop_map(|(sizes, counts, partitions, blobs, style, compression)| EngineOptions {
        compaction_style: style,
        blob_bytes_min: 1 << blobs.0,
        blob_file_bytes: 1 << blobs.1,
        partition_bytes: 1 << partitions.0,
        resident_index_bytes: partitions.1,
        memtable_bytes: 1 << sizes.0,
        block_bytes: 1 << sizes.1,
        table_bytes: 1 << sizes.2,
        level_base_bytes: 1 << sizes.3,
        restart_interval: counts.0,
        bloom_bits_per_key: counts.1,
        level0_tables: counts.2,
        level0_tables_slow: 8,
        debt_bytes_slow: 1 << 20,
        level_multiplier: counts.3,
        compaction_part_bytes: 1 << blobs.1,
        // Any answer will do: it must change nothing that is read.
        expires_at: Some(ExpiresAt(|value| value.first().map(|byte| u64::from(*byte) * 8))),
        manifest_bytes_max: 1 << counts.4,
        compression: std::array::from_fn(|level| compression[level.min(1)]),
    })
}

fn run(world: &mut World, step: &Step) {
    match step {
        Step::Write(ops) => world.write_ops(ops),
        Step::Seal => world.engine.seal(),
        Step::Job => {
            if let Some(job) = world.engine.next_job() {
                job.run().unwrap();
            }
        }
        Step::Work => {
            world.work().unwrap();
        }
        Step::Watermark(percent) => {
            let revision = world.model.point.revision.0 * u64::from(*percent) / 100;
            world.set_watermark(revision);
        }
        Step::Restart => world.restart(),
        Step::Crash { keep_percent, seed } => {
            let image = world.disk.crash(*keep_percent, *seed);
            world.reopen_on(image).unwrap();
            world.check();
        }
        Step::Checkpoint => checkpoint(world),
        Step::Transfer => transfer(world),
        Step::Check => world.check(),
    }
}

/// A checkpoint opens as the durable state was.
fn checkpoint(world: &mut World) {
    let dir = std::path::Path::new("/checkpoint");
    let _ = holdfast_env::Disk::remove_dir_all(&world.disk, dir);
    world.flush();
    let point = world.engine.checkpoint(dir).unwrap();
    assert_eq!(point, world.model.point);
    let copy = open_engine(&world.disk, dir, &world.durable, &world.options, 77).unwrap();
    check(&copy, &world.model);
}

/// An engine with other content takes over a snapshot, and still has it after a power cut.
fn transfer(world: &mut World) {
    world.flush();
    let mut receiver = World::on(SimDisk::new(), world.options.clone()).unwrap();
    receiver.put("of the receiver", "only");
    let snapshot = world.engine.pin();
    world.put("after the pin", "not in the snapshot");
    let disk = std::sync::Arc::new(receiver.disk.clone());
    let staged = std::path::Path::new("/data/staging");
    let staging = Staging::create(disk, staged, snapshot.manifest()).unwrap();
    for (number, file) in snapshot.files().iter().enumerate() {
        let mut offset = 0;
        while offset < file.bytes {
            let chunk = snapshot.read_chunk(number, offset, 1_000).unwrap();
            staging.write(&file.name, offset, &chunk).unwrap();
            offset += chunk.len() as u64;
        }
    }
    let staged = staging.finish().unwrap();
    let point = receiver.engine.replace_from(&staged, 0).unwrap();
    assert_eq!(point, snapshot.point());
    let mut expected = world.model.clone();
    let pinned = snapshot.point();
    for (family, keys) in &mut expected.families {
        keys.values_mut().for_each(|v| v.retain(|seq, _| *seq <= pinned.seq_max(*family)));
    }
    for (family, ranges) in &mut expected.ranges {
        ranges.retain(|range| range.0 <= pinned.seq_max(*family));
    }
    expected.point = pinned;
    check(&receiver.engine, &expected);
    receiver.model = expected;
    let image = receiver.disk.crash(0, 3);
    receiver.reopen_on(image).unwrap();
    receiver.put("and", "goes on");
    receiver.flush();
    receiver.check();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_operations_under_any_options_answer_like_the_model(
        options in options(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(options);
        for step in &steps {
            run(&mut world, step);
        }
        world.check();
        world.flush();
        world.check();
        world.restart();
        world.check();
    }
}
