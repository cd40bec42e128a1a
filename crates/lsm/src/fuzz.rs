//! Every decoder of the engine on its corpus, and on what is near to it.
//!
//! Checksums are made right again after a change: they would keep it away from what is to be
//! tested.

use std::path::Path;

use holdfast_env::sim::{Corpus, Target};

use crate::checksum;
use crate::manifest::{Edit, decode_current, read_manifest};
use crate::table::fuzz;

/// Birth id of every file here.
const BIRTH: u128 = 7;

const TARGETS: [Target; 3] = [
    ("edit", |bytes| Edit::decode(bytes).is_some()),
    ("manifest", use_manifest),
    ("current", use_current),
];

fn targets() -> impl Iterator<Item = Target> {
    TARGETS.into_iter().chain(fuzz::TARGETS)
}

/// Puts `sum` at `at`, if there is room.
pub(crate) fn put(bytes: &mut [u8], at: usize, sum: u64) {
    if let Some(field) = bytes.get_mut(at..at + 8) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

/// A manifest: header of 32 bytes, then records of marker, length, checksum and payload.
fn use_manifest(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let birth = |bytes: &[u8]| Some(u128::from_le_bytes(*bytes.get(16..32)?.first_chunk()?));
    let birth = birth(&sealed).unwrap_or(BIRTH);
    let mut at = 32;
    while let Some(length) = sealed.get(at + 4..at + 8) {
        let length = length.to_vec();
        let bytes = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(payload) = sealed.get(at + 16..).and_then(|rest| rest.get(..bytes)) else { break };
        let sum = checksum::at(birth, at as u64, &[&length[..], payload].concat());
        put(&mut sealed, at + 8, sum);
        at += 16 + bytes;
    }
    read_manifest(&sealed, Path::new("MANIFEST")).is_ok()
}

fn use_current(bytes: &[u8]) -> bool {
    let mut sealed = bytes.to_vec();
    let sum = checksum::at(0, 0, sealed.get(..24).unwrap_or_default());
    put(&mut sealed, 24, sum);
    decode_current(&sealed).is_ok()
}

fn corpus() -> Corpus {
    Corpus::of_crate(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_decoder_takes_its_corpus_and_what_is_near_to_it_without_harm() {
    let tried = corpus().try_all(targets());
    println!("\n{tried} decoders tried");
}

#[test]
fn every_decoder_still_knows_something_in_its_corpus() {
    let unknown = corpus().unknown(targets());
    assert!(unknown.is_empty(), "the format changed, the corpus did not: {unknown:?}");
}
