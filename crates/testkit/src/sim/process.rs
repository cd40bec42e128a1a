//! What libraries ask the operating system for, behind the back of `env`: randomness and time.
//!
//! The standard library keys its hash maps, and through them tokio its scheduler, from
//! `getrandom`; h2 and hyper look at `clock_gettime`. Inside a [`Seeded`] thread both answer from
//! the seed and from simulated time; everywhere else they are the system's own. This takes the
//! place of tokio's unstable seeding, and covers what that does not.
//!
//! A run has a thread of its own, because the standard library draws its keys once per thread.
#![allow(unsafe_code)] // Symbols of the C library are replaced; see the SAFETY comments.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Simulated time starts this long after the kernel's zero: libraries subtract from it.
const START: Duration = Duration::from_secs(1_767_225_600);

#[derive(Clone, Copy)]
struct World {
    random: u64,
    now: Duration,
}

thread_local! {
    static WORLD: Cell<Option<World>> = const { Cell::new(None) };
}

/// While it lives, the thread that made it draws from a seed and lives in simulated time.
#[derive(Debug)]
pub(super) struct Seeded(());

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        WORLD.set(Some(World { random: seed, now: START }));
        Self(())
    }

    /// Moves the thread's time to `elapsed` since the start.
    pub(super) fn set_elapsed(&self, elapsed: Duration) {
        WORLD.set(WORLD.get().map(|world| World { now: START + elapsed, ..world }));
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// One step of SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The `getrandom` of every library in the process.
///
/// # Safety
/// `buffer` is valid for writes of `length` bytes, as for the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(mut world) = WORLD.get() else {
        // SAFETY: the same call with the same arguments.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as isize;
    };
    // SAFETY: the caller promises `length` writable bytes; `u8` has no invalid values, and
    // nothing is read before it is written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&draw(&mut world.random).to_le_bytes()[..chunk.len()]);
    }
    WORLD.set(Some(world));
    length as isize
}

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

/// Address of the C library's `clock_gettime`, once somebody asked for it; 0 before.
static SYSTEM_CLOCK: AtomicUsize = AtomicUsize::new(0);

fn system_clock() -> Option<ClockGettime> {
    let mut address = SYSTEM_CLOCK.load(Ordering::Relaxed);
    if address == 0 {
        // SAFETY: the name is a C string; looking a symbol up changes nothing.
        address = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) } as usize;
        SYSTEM_CLOCK.store(address, Ordering::Relaxed);
    }
    // SAFETY: null becomes `None`; otherwise it is the function of that name, whose type is known.
    unsafe { std::mem::transmute::<usize, Option<ClockGettime>>(address) }
}

/// The `clock_gettime` of every library in the process.
///
/// # Safety
/// `out` is valid for a write, as for the system's own.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> c_int {
    if let Some(world) = WORLD.get() {
        let time = libc::timespec {
            tv_sec: world.now.as_secs() as libc::time_t,
            tv_nsec: c_long::from(world.now.subsec_nanos()),
        };
        // SAFETY: the caller promises that `out` may be written.
        unsafe { out.write(time) };
        return 0;
    }
    match system_clock() {
        // SAFETY: the same call with the same arguments.
        Some(system) => unsafe { system(clock, out) },
        // SAFETY: as above, by the kernel's number instead of the library's name.
        None => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as c_int },
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // What std draws and reads is what is tested here.
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use super::*;

    fn order(seed: u64) -> Vec<u64> {
        let thread = std::thread::spawn(move || {
            let _seeded = Seeded::new(seed);
            (0..100).map(|n| (n, ())).collect::<HashMap<u64, ()>>().into_keys().collect()
        });
        thread.join().unwrap()
    }

    #[test]
    fn order_of_a_hash_map_follows_from_the_seed() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn time_of_a_seeded_thread_moves_when_told_and_the_systems_goes_on() {
        let real = Instant::now();
        let thread = std::thread::spawn(|| {
            let seeded = Seeded::new(1);
            let before = Instant::now();
            assert_eq!(before.elapsed(), Duration::ZERO);
            seeded.set_elapsed(Duration::from_secs(3_600));
            assert_eq!(before.elapsed(), Duration::from_secs(3_600));
            drop(seeded);
            Instant::now()
        });
        let after = thread.join().unwrap();
        assert!(after >= real && after - real < Duration::from_secs(600), "the system's again");
    }
}
