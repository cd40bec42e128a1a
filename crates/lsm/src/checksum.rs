//! Checksums that know which file and which place they belong to.
//!
//! A plain checksum accepts a block that a disk wrote to the wrong place or that belongs to an
//! older file of the same name. Seeding it with the file's random birth id and the offset does not.

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// The random identity a file is born with; a copy or hard link of the file keeps it.
pub(crate) type BirthId = u128;

/// Checksum of `bytes` at `offset` of the file `birth`.
pub(crate) fn at(birth: BirthId, offset: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seed(birth, offset))
}

/// The checksum of a whole file, computed as it is written or read.
pub(crate) struct Whole(Xxh3);

impl Whole {
    pub(crate) fn new(birth: BirthId) -> Self {
        Self(Xxh3::with_seed(seed(birth, u64::MAX)))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.0.digest()
    }
}

fn seed(birth: BirthId, offset: u64) -> u64 {
    if holdfast_env::defect!(CHECKSUM_WITHOUT_POSITION) {
        return 0;
    }
    xxh3_64_with_seed(&birth.to_le_bytes(), offset)
}
