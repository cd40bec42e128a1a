//! The `CURRENT` file: which generation of the engine counts.
//!
//! ```text
//!   0  magic       8 bytes
//!   8  version     u32
//!  12  zero        u32
//!  16  generation  u64
//!  24  checksum    u64   xxh3 of [0, 24), seeded by offset 0 and no birth id: the file is
//!                        replaced as a whole and its content says everything
//! ```

use std::path::Path;

use holdfast_env::Disk;

use crate::checksum;
use crate::codec::{Decoder, Encode};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"HFCURRE\n";
const VERSION: u32 = 1;
const BYTES: usize = 32;

/// The generation `path` names; `None` if there is no such file.
pub(crate) fn read_current(disk: &dyn Disk, path: &Path) -> Result<Option<u64>> {
    if !disk.exists(path).map_err(|e| Error::unreferenced("look for", path, e))? {
        return Ok(None);
    }
    let bytes = disk.read(path).map_err(|e| Error::unreferenced("read", path, e))?;
    decode(&bytes).map(Some).map_err(|what| Error::corrupt(path, 0, what))
}

/// Makes `generation` the current one, durably.
pub(crate) fn write_current(disk: &dyn Disk, path: &Path, generation: u64) -> Result<()> {
    disk.replace(path, &encode(generation)).map_err(|e| Error::durable("replace", path, e))
}

fn encode(generation: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES);
    out.extend_from_slice(MAGIC);
    out.put_u32(VERSION);
    out.put_u32(0);
    out.put_u64(generation);
    out.put_u64(checksum::at(0, 0, &out));
    out
}

pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<u64, &'static str> {
    let covered = bytes.get(..24).filter(|_| bytes.len() == BYTES).ok_or("wrong length")?;
    let mut decoder = Decoder::new(bytes);
    if decoder.bytes(8) != Some(MAGIC) {
        return Err("no magic");
    }
    let mut read = || {
        let version = decoder.u32()?;
        decoder.u32()?;
        Some((version, decoder.u64()?, decoder.u64()?))
    };
    let (version, generation, sum) = read().ok_or("wrong length")?;
    match () {
        () if sum != checksum::at(0, 0, covered) => Err("checksum"),
        () if version != VERSION => Err("unknown version"),
        () => Ok(generation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_current_is_noticed() {
        let good = encode(7);
        assert_eq!(decode(&good), Ok(7));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }
}
