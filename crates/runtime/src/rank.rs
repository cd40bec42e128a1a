//! How a thread stands to the others of the machine.
#![allow(unsafe_code)]

/// How a worker's thread stands to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// As any other.
    Usual,
    /// It gets what others leave of the processors, and a small share where they leave nothing; who
    /// wakes up beside it hardly waits for it.
    Behind,
}

/// How far a thread in the background stands behind others, on the scale of `nice`: of a processor
/// that another thread would use whole it gets a tenth, so that it never starves while it holds a
/// lock that others want.
const NICE_BEHIND: i32 = 10;
/// What such a thread asks to run at a time, nanoseconds: a thread that wakes up waits until the
/// running one has had that. The smallest that Linux grants; without a wish it is 0.7 to 3 ms.
const SLICE_BEHIND_NS: u64 = 100_000;

impl Rank {
    /// Gives the calling thread this rank. Where the system refuses, it stands as it did.
    pub(crate) fn take(self) {
        if self == Self::Behind {
            // Linux keeps this per thread.
            let _ = rustix::process::setpriority_process(None, NICE_BEHIND);
            ask_for_slices();
        }
    }
}

/// Asks for short slices of time; kernels before 6.12 do not know the wish and leave things as they
/// are.
#[cfg(target_os = "linux")]
fn ask_for_slices() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: NICE_BEHIND,
        sched_priority: 0,
        sched_runtime: SLICE_BEHIND_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call reads `size` bytes of `attributes`, which is that long and lives until it
    // returns; 0 is the calling thread, and there are no flags.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Other systems have no such wish.
#[cfg(not(target_os = "linux"))]
fn ask_for_slices() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_behind_has_its_nice_value_and_others_keep_theirs() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let behind = crate::thread("behind", || {
            Rank::Behind.take();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert_eq!(behind.unwrap().join(), NICE_BEHIND.max(before));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }
}
