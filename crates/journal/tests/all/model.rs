//! Random work on a journal under random options answers like the model.

use std::sync::Arc;

use holdfast_env::sim::SimDisk;
use holdfast_journal::JournalOptions;
use proptest::prelude::*;

use crate::rig::{Rig, small};
use crate::world::{Op, World, matches};

fn options() -> impl Strategy<Value = JournalOptions> {
    (4_u64..12, prop_oneof![Just(0_u64), Just(1500), Just(1 << 20)]).prop_map(
        |(segments, cache_bytes)| JournalOptions {
            limit_bytes: segments * small().segment_bytes,
            cache_bytes,
            ..small()
        },
    )
}

fn work() -> impl Strategy<Value = Vec<Op>> {
    let op = (any::<u8>(), any::<u8>(), any::<u16>());
    let op = op.prop_map(|(kind, group, argument)| Op { kind, group, argument });
    proptest::collection::vec(op, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn a_journal_answers_like_its_model_before_and_after_reopening(
        options in options(), work in work(), reopen_every in 20_usize..100,
    ) {
        let mut world = World::new(Rig::open(Arc::new(SimDisk::new()), options.clone()).unwrap());
        for (done, op) in work.into_iter().enumerate() {
            world.apply(op).unwrap();
            if done % 16 == 0 {
                prop_assert!(matches(&world.model, &world.rig.journal));
            }
            if done % reopen_every == reopen_every - 1 {
                world.rig.rest();
                world.rig = world.rig.reopen(options.clone());
                prop_assert_eq!(&world.rig.recovery.hit, &[]);
                prop_assert!(matches(&world.model, &world.rig.journal));
            }
        }
        prop_assert!(matches(&world.model, &world.rig.journal));
    }
}
