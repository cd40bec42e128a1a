//! Decoders on a corpus of inputs, and on what is near to them.

use std::path::{Path, PathBuf};

use crate::Disk;
use crate::real::RealDisk;
use crate::sim::Random;

/// A decoder by name; says whether it took the bytes for what it knows, and panics where it may
/// not.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Changed inputs per input, unless `ROUNDS` says another number.
const ROUNDS: u64 = 300;

/// Inputs for decoders: `DIR/NAME/*` are those of the decoder NAME; what once did harm is kept
/// there.
#[derive(Clone, Debug)]
pub struct Corpus {
    dir: PathBuf,
}

impl Corpus {
    /// The corpus in `tests/corpus` of the crate at `manifest_dir`.
    pub fn of_crate(manifest_dir: &str) -> Self {
        Self { dir: Path::new(manifest_dir).join("tests/corpus") }
    }

    /// Gives every target its inputs, and each of them changed in 300 ways (environment: `ROUNDS`),
    /// the same ones every time; how many targets there were.
    ///
    /// # Panics
    /// Where a target does, and where it has no corpus.
    pub fn try_all(&self, targets: impl IntoIterator<Item = Target>) -> usize {
        let mut tried = 0;
        let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
        for (name, target) in targets {
            tried += 1;
            let mut random = Random::new(rounds);
            for bytes in self.inputs(name) {
                target(&bytes);
                for _ in 0..rounds {
                    target(&random.mutate(&bytes));
                }
            }
        }
        tried
    }

    /// Targets that take none of their inputs for what they know: the format changed, the corpus
    /// did not.
    ///
    /// # Panics
    /// As [`Corpus::try_all`].
    pub fn unknown(&self, targets: impl IntoIterator<Item = Target>) -> Vec<&'static str> {
        let knows = |(name, target): &Target| self.inputs(name).iter().any(|bytes| target(bytes));
        targets.into_iter().filter(|target| !knows(target)).map(|(name, _)| name).collect()
    }

    fn inputs(&self, name: &str) -> Vec<Vec<u8>> {
        let dir = self.dir.join(name);
        let read = |dir: &Path| -> std::io::Result<Vec<Vec<u8>>> {
            RealDisk.list(dir)?.iter().map(|path| RealDisk.read(path)).collect()
        };
        match read(&dir) {
            Ok(inputs) => inputs,
            Err(error) => panic!("{}: {error}", dir.display()),
        }
    }
}
