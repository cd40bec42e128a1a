//! What a node counts: requests as they end, everything else when it is asked.
//!
//! One registry per node, so that many nodes can live in one process. Names begin with
//! `holdfast_`; units are in the names.

mod collect;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::api::{Observer, Operation, ReadLevel};
use crate::system::{FORMAT_VERSION, VERSION};

pub use collect::Sources;

/// First bucket of request durations, seconds.
const BUCKET_SECONDS_MIN: f64 = 0.000_05;
/// Each bucket is this much wider than the one before: quantiles are exact to a quarter.
const BUCKET_FACTOR: f64 = 1.5;
/// The last bucket ends at about half a minute.
const BUCKETS: u16 = 33;
/// Read levels, and none.
const LEVELS: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    operation: &'static str,
    code: String,
}

/// Counts requests and renders everything.
pub struct Metrics {
    registry: Registry,
    /// By operation and level, so that counting needs no look-up by label.
    durations: Vec<Histogram>,
    errors: Family<ErrorLabels, Counter>,
    watches: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn level_index(level: Option<ReadLevel>) -> usize {
    match level {
        None => 0,
        Some(ReadLevel::Linearizable) => 1,
        Some(ReadLevel::Lease) => 2,
        Some(ReadLevel::Follower) => 3,
    }
}

fn level_name(index: usize) -> &'static str {
    match index {
        1 => "linearizable",
        2 => "lease",
        3 => "follower",
        _ => "",
    }
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(BUCKET_SECONDS_MIN, BUCKET_FACTOR, BUCKETS))
}

impl Metrics {
    /// A registry that renders `sources` whenever it is asked.
    pub fn new(sources: Sources) -> Arc<Self> {
        let mut registry = Registry::with_prefix("holdfast");
        let family =
            Family::<RequestLabels, Histogram, fn() -> Histogram>::new_with_constructor(histogram);
        let mut durations = Vec::new();
        for operation in Operation::ALL {
            for level in 0..LEVELS {
                let is_read =
                    matches!(operation, Operation::Get | Operation::BatchGet | Operation::Scan);
                // Combinations that cannot happen are counted beside the registry.
                if is_read != (level > 0) {
                    durations.push(histogram());
                    continue;
                }
                let labels =
                    RequestLabels { operation: operation.name(), level: level_name(level) };
                durations.push(family.get_or_create(&labels).clone());
            }
        }
        registry.register(
            "request_duration_seconds",
            "Time from a request's arrival to its answer",
            family,
        );
        let errors = Family::default();
        registry.register("request_errors", "Requests that ended with an error", errors.clone());
        let watches = Gauge::default();
        registry.register("open_watches", "Watches of clients under way", watches.clone());
        let build =
            vec![("version", VERSION.to_owned()), ("format_version", FORMAT_VERSION.to_string())];
        registry.register("build", "The program that runs", Info::new(build));
        registry.register_collector(Box::new(sources));
        Arc::new(Self { registry, durations, errors, watches })
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// A figure could not be formatted; the page is left out.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Observer for Metrics {
    fn finished(
        &self,
        operation: Operation,
        level: Option<ReadLevel>,
        code: Code,
        elapsed: Duration,
    ) {
        let index = operation as usize * LEVELS + level_index(level);
        if let Some(histogram) = self.durations.get(index) {
            histogram.observe(elapsed.as_secs_f64());
        }
        if code != Code::Ok {
            let labels = ErrorLabels { operation: operation.name(), code: format!("{code:?}") };
            self.errors.get_or_create(&labels).inc();
        }
    }
    fn watch_opened(&self) {
        self.watches.inc();
    }

    fn watch_closed(&self) {
        self.watches.dec();
    }
}
