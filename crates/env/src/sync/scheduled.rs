//! The same names for a build with `--cfg shuttle`: usable only inside `shuttle::check_*`.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

pub use std::sync::atomic::Ordering;

pub use shuttle::hint::spin_loop;

/// A point at which another thread may come between.
pub fn interleave() {
    // Any use of one of shuttle's own atomics is such a point, and unlike a yield it says nothing
    // about who should go on.
    shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
}

/// `parking_lot::Mutex`, as far as it is used here.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

/// `parking_lot::MutexGuard`; empty only while it waits.
pub struct MutexGuard<'a, T: ?Sized>(Option<shuttle::sync::MutexGuard<'a, T>>);

const FAILED: &str = "a thread of the model failed while it held the lock";
const WAITING: &str = "nobody looks at a guard that waits";

impl<T> Mutex<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until the lock is free.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().expect(FAILED)))
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
    }

    /// What only one can look at needs no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect(FAILED)
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(WAITING)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(WAITING)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// `parking_lot::Condvar`, as far as it is used here.
#[derive(Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits to be woken.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect(WAITING);
        guard.0 = Some(self.0.wait(held).expect(FAILED));
    }

    /// Waits to be woken. The model has no time: a lost wake-up shows as a deadlock instead of
    /// being hidden by the timeout.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        self.wait(guard);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty, [$($generic:ident)?], { $($more:tt)* }) => {
        /// The standard library's atomic, layout and all, with a switch before every use.
        #[repr(transparent)]
        pub struct $name$(<$generic>)?(std::sync::atomic::$name$(<$generic>)?);

        impl$(<$generic>)? Default for $name$(<$generic>)? {
            fn default() -> Self {
                Self(std::sync::atomic::$name::default())
            }
        }

        impl$(<$generic>)? fmt::Debug for $name$(<$generic>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl$(<$generic>)? $name$(<$generic>)? {
            /// Holds `value`.
            pub const fn new(value: $value) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            /// See the standard library.
            pub fn load(&self, order: Ordering) -> $value {
                interleave();
                self.0.load(order)
            }

            /// See the standard library.
            pub fn store(&self, value: $value, order: Ordering) {
                interleave();
                self.0.store(value, order);
            }

            /// See the standard library.
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                interleave();
                self.0.swap(value, order)
            }

            $($more)*
        }
    };
}

macro_rules! number {
    ($name:ident, $value:ty) => {
        atomic!($name, $value, [], {
            /// See the standard library.
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                interleave();
                self.0.fetch_add(value, order)
            }

            /// See the standard library.
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                interleave();
                self.0.fetch_sub(value, order)
            }

            /// See the standard library.
            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                interleave();
                self.0.fetch_max(value, order)
            }

            /// See the standard library.
            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }
        });
    };
}

atomic!(AtomicBool, bool, [], {});
atomic!(AtomicPtr, *mut T, [T], {});
number!(AtomicU64, u64);
number!(AtomicUsize, usize);
