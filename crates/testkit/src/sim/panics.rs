//! Panics inside tasks and pools are caught there; a run has to know of them all the same.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Collects the panics of the thread that made it.
pub(super) struct Panics(());

impl Panics {
    pub(super) fn on_this_thread() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let is_seen = SEEN.with_borrow_mut(|seen| {
                    seen.as_mut().map(|seen| seen.push(panic.to_string())).is_some()
                });
                if !is_seen {
                    usual(panic);
                }
            }));
        });
        SEEN.set(Some(Vec::new()));
        Self(())
    }

    /// The first panic, if there was one.
    pub(super) fn first(&self) -> Option<String> {
        SEEN.with_borrow(|seen| seen.as_ref().and_then(|seen| seen.first().cloned()))
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        SEEN.set(None);
    }
}
