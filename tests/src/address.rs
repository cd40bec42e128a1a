//! Addresses that no other test, and no other run of the tests, uses.
//!
//! The process id picks a loopback address, the count of clusters picks ports on it. Ports lie
//! below 32768, where the system hands none out by itself.

use std::sync::atomic::{AtomicU16, Ordering};

/// Ports begin here …
const PORT_FIRST: u16 = 20_000;
/// … and one cluster has so many.
const PORTS_PER_CLUSTER: u16 = 40;
/// Clusters one run can start.
const CLUSTERS_MAX: u16 = 300;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Where one cluster listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// Loopback address of this process.
    pub(crate) host: String,
    /// Node i serves clients on this + i, peers on + 10 + i, HTTP on + 20 + i; where there is a
    /// door before it, peers on + 30 + i behind that.
    pub(crate) port_base: u16,
    /// Number of the cluster in this process.
    pub(crate) number: u16,
}

impl Addresses {
    pub(crate) fn next() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < CLUSTERS_MAX, "one run starts at most {CLUSTERS_MAX} clusters");
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        // 127.64.0.0 and up: nobody else's habit. Process ids have at most 22 bits.
        let host = format!("127.{}.{middle}.{low}", 64 | (high & 0x3f));
        Self { host, port_base: PORT_FIRST + number * PORTS_PER_CLUSTER, number }
    }

    pub(crate) fn client(&self, i: usize) -> String {
        self.at(i)
    }

    pub(crate) fn peer(&self, i: usize) -> String {
        self.at(10 + i)
    }

    pub(crate) fn behind(&self, i: usize) -> String {
        self.at(30 + i)
    }

    pub(crate) fn http(&self, i: usize) -> String {
        self.at(20 + i)
    }

    fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.host, usize::from(self.port_base) + offset)
    }
}
