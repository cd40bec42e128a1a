//! The doors to the world, bundled: clock, randomness and network.

use std::sync::Arc;

use holdfast_env::real::{RealClock, RealEntropy};
use holdfast_env::{Clock, Entropy};
use holdfast_runtime::net::{Net, RealNet};

/// What a client reaches the world through; the real ones unless a simulation says otherwise.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for client ids and for jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Connections.
    pub net: Arc<dyn Net>,
}

impl Default for Doors {
    fn default() -> Self {
        Self { clock: Arc::new(RealClock), entropy: Arc::new(RealEntropy), net: Arc::new(RealNet) }
    }
}
