//! Named OS threads, for synchronous work that never ends: a journal writer, an apply loop.

use std::io;

/// Linux shows 15 bytes of a thread's name.
const NAME_BYTES_MAX: usize = 15;

/// A running thread. Dropping it leaves the thread alone.
#[derive(Debug)]
pub struct Thread<T> {
    handle: std::thread::JoinHandle<T>,
}

impl<T> Thread<T> {
    /// Waits until the thread's function returns, and gives what it returned.
    ///
    /// # Panics
    /// With the thread's own panic, if it panicked.
    pub fn join(self) -> T {
        match self.handle.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Whether the thread's function has returned.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

/// Runs `f` on an OS thread of its own, called `name` (at most 15 bytes are shown by the system).
///
/// # Errors
/// The system gives no further thread.
pub fn thread<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    let mut name = name.to_owned();
    let end = (0..=name.len().min(NAME_BYTES_MAX)).rev().find(|i| name.is_char_boundary(*i));
    name.truncate(end.unwrap_or(0));
    let handle = std::thread::Builder::new().name(name).spawn(f)?;
    Ok(Thread { handle })
}
