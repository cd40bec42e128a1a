//! The allocator of the process, and how long it keeps memory that was freed.
//!
//! Flushes and compactions free and take megabytes all the time. Memory that went back to the
//! system comes again by page faults and is zeroed each time: with the allocator's default of one
//! second that was 45 of 100 parts of the processor time of a fill. What is kept is bounded by what
//! the process once used at a time.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

use libmimalloc_sys::mi_option_set;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of `mi_option_purge_delay` in `mimalloc.h`; the bindings do not name it.
const PURGE_DELAY: c_int = 15;
/// How long freed memory waits for a use before the system gets it, ms.
const PURGE_DELAY_MS: c_long = 10_000;

/// Sets the allocator up, unless the environment has (`MIMALLOC_PURGE_DELAY`, ms).
pub fn set_up() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: the option exists, and options are plain numbers that any thread may set.
        unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    #[test]
    fn the_number_is_that_of_the_purge_delay() {
        // SAFETY: the option exists.
        let read = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(
            read(),
            1_000,
            "mimalloc's default; with another number this was another option"
        );
        set_up();
        assert_eq!(read(), PURGE_DELAY_MS);
    }
}
