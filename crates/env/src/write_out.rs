//! Asking the kernel to begin with the writing of a part of a file.
//!
//! Without it the kernel writes when the file is synced, all of it at once, and every other sync
//! waits in the device's queue behind that.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

/// Has the device begin with what was written at `offset`; does not wait for it.
#[cfg(target_os = "linux")]
pub(crate) fn write_out(file: BorrowedFd<'_>, offset: u64, length: u64) {
    use std::os::fd::AsRawFd;

    // A length of 0 would mean the whole rest of the file.
    let (Ok(offset), Ok(length @ 1..)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as it is borrowed; no memory is passed.
    // What fails here is found again, and told, by the sync that follows.
    let _ = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// Other systems write when they are told to sync.
#[cfg(not(target_os = "linux"))]
pub(crate) fn write_out(_file: BorrowedFd<'_>, _offset: u64, _length: u64) {}
