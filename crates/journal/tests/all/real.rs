//! The real disk, with the writer on a thread as in production.
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::real::{RealClock, RealDisk};
use holdfast_journal::{Journal, JournalOptions, Recovery, Step, Writer};

use crate::rig::{entries, group, open_on};

fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 2 * 1024 * 1024,
        limit_bytes: 64 * 1024 * 1024,
        queue_bytes_max: 1024 * 1024,
        ..JournalOptions::default()
    }
}

fn open(directory: &Path) -> (Arc<Journal>, Writer, Recovery) {
    open_on(Arc::new(RealDisk), Arc::new(RealClock), directory, options(), 3).unwrap()
}

/// Runs the writer until told to stop and nothing is left.
fn run(mut writer: Writer, stop: &AtomicBool) {
    loop {
        let step = writer.step().unwrap();
        if let Step::Idle { next } = step {
            if next.is_none() && stop.load(Ordering::SeqCst) {
                return;
            }
            writer.wait(Duration::from_millis(100));
        }
    }
}

#[test]
fn many_threads_write_through_one_writer_and_find_it_all_again() {
    const GROUPS: u64 = 8;
    const APPENDS: u64 = 60;
    let directory = tempfile::tempdir().unwrap();
    let (journal, writer, _) = open(directory.path());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = thread::spawn(move || run(writer, &stopped));
    thread::scope(|scope| {
        for number in 0..GROUPS {
            let journal = &journal;
            scope.spawn(move || {
                let (sender, receiver) = mpsc::channel();
                let done = |sender: &mpsc::Sender<()>| {
                    let sender = sender.clone();
                    Box::new(move |result: std::io::Result<()>| {
                        result.unwrap();
                        sender.send(()).unwrap();
                    })
                };
                journal.create_group(group(number), Bytes::new(), done(&sender)).unwrap();
                receiver.recv().unwrap();
                for index in 0..APPENDS {
                    // Copied, referenced and large payloads in turn.
                    let size = [200, 20_000, 100_000][index as usize % 3];
                    let fresh = entries(1, index..index + 1, size);
                    journal.append(group(number), fresh, done(&sender)).unwrap();
                    receiver.recv().unwrap();
                }
            });
        }
    });
    stop.store(true, Ordering::SeqCst);
    journal.wake();
    writing.join().unwrap();
    let stats = journal.stats();
    assert!(stats.syncs <= 2 * GROUPS * (APPENDS + 1), "{stats:?}");
    drop(journal);
    let (journal, _, recovery) = open(directory.path());
    assert_eq!(recovery.hit, []);
    for number in 0..GROUPS {
        let mut next = 0;
        while next < APPENDS {
            let chunk = journal.read(group(number), next..APPENDS, 300_000).unwrap();
            for entry in &chunk {
                let size = [200, 20_000, 100_000][next as usize % 3];
                assert_eq!(*entry, entries(1, next..next + 1, size)[0]);
                next += 1;
            }
            assert!(!chunk.is_empty(), "a chunk holds at least one entry");
        }
    }
}
