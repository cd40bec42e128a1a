//! The pointer behind which versions are exchanged: arc-swap's, or one that a model checker
//! schedules (see [`holdfast_env::sync`]).

#[cfg(not(shuttle))]
pub(crate) use arc_swap::ArcSwap;
#[cfg(shuttle)]
pub(crate) use scheduled::ArcSwap;

#[cfg(shuttle)]
mod scheduled {
    //! arc-swap with a switch before every use; inside a use there is none.

    use std::sync::Arc;

    use arc_swap::Guard;
    use holdfast_env::sync::interleave;

    pub(crate) struct ArcSwap<T>(arc_swap::ArcSwap<T>);

    impl<T> ArcSwap<T> {
        pub(crate) fn from_pointee(value: T) -> Self {
            Self(arc_swap::ArcSwap::from_pointee(value))
        }

        pub(crate) fn load(&self) -> Guard<Arc<T>> {
            interleave();
            self.0.load()
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            interleave();
            self.0.load_full()
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            interleave();
            self.0.store(value);
        }
    }
}
