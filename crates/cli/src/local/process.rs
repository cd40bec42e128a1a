//! Node processes: starting them detached, recognising them, signalling them.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A process by number and start time (clock ticks since boot), so that a reused number is told
/// apart from the process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Process id.
    pub pid: i32,
    start: u64,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.pid, self.start)
    }
}

/// The fields of `/proc/PID/stat` after the command name, state first.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    fields_of(Path::new(&format!("/proc/{pid}/stat")))
}

fn fields_of(stat: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(stat).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Whether a thread of the process has not ended. A killed process is a zombie as soon as its first
/// thread is one, while others still hold its ports and files.
fn has_living_thread(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let fields = fields_of(&thread.path().join("stat"));
        fields.is_some_and(|f| f.first().is_some_and(|state| state != "Z" && state != "X"))
    })
}

/// Processor seconds (user and system) the process has used since it began.
pub fn cpu_seconds(pid: i32) -> Option<f64> {
    let fields = stat_fields(pid)?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second();
    Some((user + system) as f64 / ticks as f64)
}

/// Memory the process holds in RAM, bytes.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

impl Recorded {
    /// The process `pid` as it is now.
    pub fn of(pid: i32) -> Option<Self> {
        let start = stat_fields(pid)?.get(19)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// Reads what `to_string` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        let start = words.next()?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// Whether exactly this process still runs (a zombie does not).
    pub fn is_alive(self) -> bool {
        let start = stat_fields(self.pid).and_then(|fields| fields.get(19)?.parse().ok());
        start == Some(self.start) && has_living_thread(self.pid)
    }

    /// Whether it is stopped by a signal.
    pub fn is_paused(self) -> bool {
        stat_fields(self.pid).is_some_and(|f| f.first().is_some_and(|state| state == "T"))
    }

    /// Sends `signal` if exactly this process still runs.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match Pid::from_raw(self.pid) {
            Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
            None => Ok(()),
        }
    }

    /// Waits until it is gone; false if it is still there after `limit`.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// Starts `program` in the background: own process group, no terminal, output to `log`, no
/// descriptor of this process.
pub fn spawn_detached(program: &Path, arguments: &[String], log: &Path) -> io::Result<Recorded> {
    descriptors::close_on_exec();
    let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Recorded::of(pid).ok_or_else(|| io::Error::other("the process ended at once"))
}

/// Descriptors this process was given (a make jobserver, a test's pipe) must not reach a node
/// that outlives it, or whoever waits for their end waits for ever.
mod descriptors {
    #![allow(unsafe_code)]

    use std::fs;
    use std::os::fd::BorrowedFd;

    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    pub fn close_on_exec() {
        let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
        let numbers: Vec<i32> = entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .filter(|number| *number > 2)
            .collect();
        for number in numbers {
            // SAFETY: the number was just listed as open. Were it closed meanwhile, the calls
            // below fail with EBADF, or mark a fresh descriptor of this process close-on-exec,
            // which the standard library does with all of its own anyway. Nothing is closed here.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            if let Ok(flags) = fcntl_getfd(descriptor) {
                let _ = fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_taken_for_the_recorded_process() {
        let own = Recorded::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        assert_eq!(Recorded::parse(&own.to_string()), Some(own));
        let other = Recorded { start: own.start + 1, ..own };
        assert!(!other.is_alive());
        other.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn processor_time_of_a_process_is_read() {
        let mut sum = 0u64;
        for i in 0..50_000_000u64 {
            sum = sum.wrapping_add(i * i);
        }
        assert!(sum > 0 && cpu_seconds(std::process::id() as i32).unwrap() >= 0.0);
        assert!(resident_bytes(std::process::id() as i32).unwrap() > 100_000);
    }
}
