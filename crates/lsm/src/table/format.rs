//! Block trailer and footer of a table file.
//!
//! ```text
//! stored block:
//!   0       content              n bytes, possibly compressed
//!   n       raw_bytes     u32    length of the content after decompression
//!   n + 4   compression   u32    0 none, 1 LZ4
//!   n + 8   checksum      u64    xxh3 of [0, n + 8), seeded by birth id and file offset
//!
//! footer, the last 84 bytes of the file:
//!   0   top         offset u64, bytes u32     stored block, trailer included
//!  12   tombstones  offset u64, bytes u32     0 bytes if the table has no range tombstones
//!  24   properties  offset u64, bytes u32
//!  36   file_bytes  u64
//!  44   birth       u128
//!  60   version     u32
//!  64   zero        u32
//!  68   checksum    u64    xxh3 of [0, 68), seeded by birth id and the footer's offset
//!  76   magic       8 bytes
//! ```

use crate::checksum::{self, BirthId};
use crate::codec::{Decoder, Encode};
use crate::limits::BLOCK_BYTES_MAX;
use crate::options::Compression;

/// Bytes of a footer.
pub(crate) const FOOTER_BYTES: usize = 84;
/// Bytes of a footer its checksum covers.
const COVERED_BYTES: usize = 68;
/// Bytes of a trailer.
pub(crate) const TRAILER_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"HFTABLE\n";
const VERSION: u32 = 1;
const CODE_NONE: u32 = 0;
const CODE_LZ4: u32 = 1;

/// Where a stored block lies, trailer included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Handle {
    fn encode(self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u32(self.bytes);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(Self { offset: decoder.u64()?, bytes: decoder.u32()? })
    }

    pub(crate) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }
}

/// The last bytes of a table file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) top: Handle,
    /// 0 bytes if there is no such block.
    pub(crate) tombstones: Handle,
    pub(crate) properties: Handle,
    pub(crate) file_bytes: u64,
    pub(crate) birth: BirthId,
}

impl Footer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        self.top.encode(&mut out);
        self.tombstones.encode(&mut out);
        self.properties.encode(&mut out);
        out.put_u64(self.file_bytes);
        out.put_u128(self.birth);
        out.put_u32(VERSION);
        out.put_u32(0);
        let offset = self.file_bytes - FOOTER_BYTES as u64;
        out.put_u64(checksum::at(self.birth, offset, &out));
        out.extend_from_slice(MAGIC);
        out
    }

    /// The birth id a footer claims, unchecked: for who has no manifest to ask.
    pub(crate) fn claimed_birth(bytes: &[u8]) -> Option<BirthId> {
        Decoder::new(bytes.get(44..)?).u128()
    }

    /// Reads the footer of a file of `file_bytes` bytes that was born as `birth`.
    pub(crate) fn decode(
        bytes: &[u8],
        file_bytes: u64,
        birth: BirthId,
    ) -> Result<Self, &'static str> {
        let covered = bytes.get(..COVERED_BYTES).ok_or("footer is cut")?;
        if bytes.get(COVERED_BYTES + 8..) != Some(MAGIC) {
            return Err("footer has no magic");
        }
        let footer = Self::fields(bytes, birth, covered, file_bytes)?;
        let mut end = 0;
        let optional = Some(footer.tombstones).filter(|handle| handle.bytes > 0);
        for handle in [Some(footer.top), optional, Some(footer.properties)].into_iter().flatten() {
            if handle.offset < end || (handle.bytes as usize) < TRAILER_BYTES {
                return Err("footer has overlapping blocks");
            }
            end = handle.end();
        }
        if end != file_bytes - FOOTER_BYTES as u64 {
            return Err("footer does not follow the last block");
        }
        Ok(footer)
    }

    fn fields(
        bytes: &[u8],
        birth: BirthId,
        covered: &[u8],
        file_bytes: u64,
    ) -> Result<Self, &'static str> {
        let mut decoder = Decoder::new(bytes);
        let mut read = || {
            let top = Handle::decode(&mut decoder)?;
            let tombstones = Handle::decode(&mut decoder)?;
            let properties = Handle::decode(&mut decoder)?;
            let (file_bytes, birth) = (decoder.u64()?, decoder.u128()?);
            let footer = Self { top, tombstones, properties, file_bytes, birth };
            let version = decoder.u32()?;
            decoder.u32()?;
            Some((footer, version, decoder.u64()?))
        };
        let (footer, version, checksum) = read().ok_or("footer is cut")?;
        let offset = file_bytes.saturating_sub(FOOTER_BYTES as u64);
        match () {
            () if version != VERSION => Err("table has an unknown version"),
            () if footer.birth != birth => Err("table is another file than the manifest names"),
            () if checksum != checksum::at(birth, offset, covered) => Err("footer checksum"),
            () if footer.file_bytes != file_bytes => Err("table has the wrong length"),
            () => Ok(footer),
        }
    }
}

/// Appends `content` as a stored block at `offset` to `out`, compressed where that pays.
pub(crate) fn store_block(
    content: &[u8],
    compression: Compression,
    birth: BirthId,
    offset: u64,
    out: &mut Vec<u8>,
) -> Handle {
    let start = out.len();
    let mut code = CODE_NONE;
    if compression == Compression::Lz4 {
        let room = lz4_flex::block::get_maximum_output_size(content.len());
        out.resize(start + room, 0);
        let packed = lz4_flex::block::compress_into(content, &mut out[start..]).unwrap_or(room);
        // Below an eighth saved, decompressing costs more than the bytes are worth.
        if packed <= content.len() - content.len() / 8 && packed < content.len() {
            out.truncate(start + packed);
            code = CODE_LZ4;
        } else {
            out.truncate(start);
        }
    }
    if code == CODE_NONE {
        out.extend_from_slice(content);
    }
    out.put_u32(u32::try_from(content.len()).expect("blocks are below 4 GiB"));
    out.put_u32(code);
    let checksum = checksum::at(birth, offset, &out[start..]);
    out.put_u64(checksum);
    let bytes = u32::try_from(out.len() - start).expect("blocks are below 4 GiB");
    Handle { offset, bytes }
}

/// Checks a stored block and gives its content, which lies in `stored` or in `scratch`.
pub(crate) fn load_block<'a>(
    stored: &'a [u8],
    birth: BirthId,
    offset: u64,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], &'static str> {
    let content_bytes = stored.len().checked_sub(TRAILER_BYTES).ok_or("block is cut")?;
    let (covered, checksum) = stored.split_at(content_bytes + 8);
    if checksum != checksum::at(birth, offset, covered).to_le_bytes() {
        return Err("block checksum");
    }
    let (content, trailer) = covered.split_at(content_bytes);
    let mut trailer = Decoder::new(trailer);
    let raw_bytes = trailer.u32().ok_or("block is cut")? as usize;
    let code = trailer.u32().ok_or("block is cut")?;
    if raw_bytes > BLOCK_BYTES_MAX {
        return Err("block is too long");
    }
    match code {
        CODE_NONE if raw_bytes == content_bytes => Ok(content),
        CODE_LZ4 => {
            let raw = room(scratch, raw_bytes);
            match lz4_flex::block::decompress_into(content, raw) {
                Ok(n) if n == raw_bytes => Ok(raw),
                _ => Err("block does not decompress"),
            }
        }
        _ => Err("block has an unknown compression"),
    }
}

/// The first `bytes` bytes of `buffer`, which grows as needed; they hold whatever was there.
pub(crate) fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    buffer.split_at_mut(bytes).0
}
