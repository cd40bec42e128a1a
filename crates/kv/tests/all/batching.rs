//! The state does not depend on how the log was cut, flushed, compacted or cut off.

use holdfast_env::sim::SimDisk;
use holdfast_kv::{ApplyResult, Envelope, Kind, LogEntry, Outcome, RevisionEvents};
use holdfast_model::{History, Span};
use proptest::prelude::*;
use prost::Message;

use crate::stream::{Step, cases, stream};
use crate::world::{World, configure, open_tiny, position, run_jobs};

/// The log of a stream: commands of equal stamps may share an entry, `pack` of them at most.
fn log(steps: &[Step], pack: usize) -> Vec<LogEntry> {
    let history = History::Duration(std::time::Duration::from_secs(20));
    let first = holdfast_kv::Command::single(configure(Span::ALL, 1, history));
    let mut clock_ms = 1_000;
    let mut envelopes = vec![Envelope { apply_version: 1, stamp_ms: 1, commands: vec![first] }];
    for step in steps {
        clock_ms += step.pause_ms;
        match envelopes.last_mut() {
            Some(last) if last.stamp_ms == clock_ms && last.commands.len() < pack => {
                last.commands.push(step.command.clone());
            }
            _ => envelopes.push(Envelope {
                apply_version: 1,
                stamp_ms: clock_ms,
                commands: vec![step.command.clone()],
            }),
        }
    }
    let entry = |(index, envelope): (u64, Envelope)| LogEntry {
        position: position(index),
        kind: Kind::Normal(envelope.encode_to_vec().into()),
    };
    (1..).zip(envelopes).map(entry).collect()
}

/// Everything a stream brings about, however it was cut.
fn told(results: Vec<ApplyResult>) -> (Vec<Outcome>, Vec<RevisionEvents>, Vec<String>) {
    let mut told = (Vec::new(), Vec::new(), Vec::new());
    for result in results {
        told.0.extend(result.outcomes.into_iter().flatten().flatten());
        told.1.extend(result.events);
        told.2.extend(result.grants.iter().map(|grant| format!("{grant:?}")));
    }
    told
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn calls_may_be_cut_anywhere(steps in stream(60), step in 1..20usize) {
        let entries = log(&steps, 1);
        let (mut one, mut many) = (World::bare(), World::bare());
        let first = told(one.replay(&entries, 1));
        let second = told(many.replay(&entries, step));
        prop_assert_eq!(first, second);
        prop_assert_eq!(one.machine.applied(), many.machine.applied());
        prop_assert_eq!(one.reader().state_hash().unwrap(), many.reader().state_hash().unwrap());
    }

    #[test]
    fn commands_may_be_packed_into_entries_anyhow(steps in stream(60), pack in 2..9usize) {
        let (mut loose, mut packed) = (World::bare(), World::bare());
        let first = told(loose.replay(&log(&steps, 1), 3));
        let second = told(packed.replay(&log(&steps, pack), 3));
        prop_assert_eq!(first, second);
        let hashes = [loose, packed].map(|world| world.reader().state_hash().unwrap());
        prop_assert_eq!(hashes[0], hashes[1]);
    }

    #[test]
    fn flushes_compactions_and_power_cuts_leave_no_trace(
        steps in stream(60),
        cut in 1..40usize,
        flushed in 0..40usize,
    ) {
        let entries = log(&steps, 1);
        let mut calm = World::bare();
        let expected = told(calm.replay(&entries, 4));
        let mut rough = World::bare();
        rough.log = entries.clone();
        let flushed = flushed.min(entries.len());
        let cut = cut.clamp(flushed, entries.len().max(flushed));
        rough.replay(&entries[..flushed], 1);
        rough.flush();
        rough.replay(&entries[flushed..cut], 2);
        rough.log.truncate(cut);
        let mut rough = rough.after_power_cut(3);
        let mut results = rough.replay(&entries[cut..], 5);
        rough.flush();
        prop_assert_eq!(rough.reader().state_hash().unwrap(), calm.reader().state_hash().unwrap());
        prop_assert_eq!(rough.machine.applied(), calm.machine.applied());
        let told = told(std::mem::take(&mut results));
        prop_assert!(expected.0.ends_with(&told.0));
        prop_assert!(expected.1.ends_with(&told.1));
    }

    #[test]
    fn small_memtables_and_torn_power_cuts_leave_no_trace(
        steps in stream(120),
        cuts in prop::collection::vec((1..30usize, any::<bool>()), 0..6),
        keep_percent in prop::sample::select(vec![0u8, 5, 50, 95, 100]),
    ) {
        let entries = log(&steps, 1);
        let mut calm = World::bare();
        calm.replay(&entries, 4);
        let mut disk = SimDisk::new();
        let mut machine = open_tiny(&disk);
        let mut done = 0;
        for (at, (calls, power_cut)) in cuts.into_iter().enumerate() {
            let to = (done + calls).min(entries.len());
            for entry in &entries[done..to] {
                machine.apply(std::slice::from_ref(entry), 0).unwrap();
                run_jobs(&machine);
            }
            if power_cut {
                let durable = machine.durable_applied();
                disk = disk.crash(keep_percent, at as u64);
                machine = open_tiny(&disk);
                prop_assert_eq!(machine.applied(), durable);
            }
            done = machine.applied().position.map_or(0, |p| p.index.0 as usize);
        }
        for call in entries[done..].chunks(3) {
            machine.apply(call, 0).unwrap();
        }
        let hash = machine.reader().state_hash().unwrap();
        prop_assert_eq!(hash, calm.reader().state_hash().unwrap());
    }

    #[test]
    fn events_are_dense_and_history_tells_them_again(steps in stream(60)) {
        let mut world = World::bare();
        let results = world.replay(&log(&steps, 1), 7);
        let grants = results.iter().flat_map(|result| &result.grants).map(|grant| grant.token);
        let mut made: Vec<u64> = grants.map(|token| token.0).collect();
        let (_, events, _) = told(results);
        let revisions: Vec<u64> = events.iter().map(|event| event.revision.0).collect();
        prop_assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]));
        // Every revision was made by changes of keys or by the grant of a lock, and by one of them.
        made.extend(revisions);
        made.sort_unstable();
        let dense: Vec<u64> = (2..=world.reader().point().revision.0).collect();
        prop_assert_eq!(made, dense);
        world.flush();
        let reader = world.reader();
        let since = holdfast_model::Revision(reader.compacted().0.max(1) - 1);
        let newest = reader.point().revision;
        let mut again = Vec::new();
        let mut from = since;
        while from < newest {
            let page = reader.changes(from, newest, 64, true).unwrap();
            prop_assert!(page.complete_to > from);
            from = page.complete_to;
            again.extend(page.revisions);
        }
        let resolve = |revision: &RevisionEvents| {
            let events = revision.events.iter().map(|event| {
                (event.kind, event.entry.clone(), reader.previous(event).unwrap())
            });
            (revision.revision, events.collect::<Vec<_>>())
        };
        // The version before the oldest readable revision is not told from history.
        let oldest = holdfast_model::Revision(since.0 + 1);
        let young = |list: &[RevisionEvents]| {
            list.iter().filter(|r| r.revision > oldest).map(resolve).collect::<Vec<_>>()
        };
        prop_assert_eq!(young(&events), young(&again));
    }
}
