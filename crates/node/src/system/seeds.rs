//! What an empty node learns from its seeds: whether there is a cluster already.
//!
//! A node whose directory was wiped looks like one that never belonged anywhere. Others know
//! better. So an empty node asks the peers that its configuration names before it founds a
//! cluster or takes part in founding one, and says in its log what it has been told. Seeds that
//! do not answer prove nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use holdfast_env::defect;
use holdfast_model::ClusterId;
use holdfast_runtime::Stop;

use super::System;
use crate::api::ApiError;

/// Seeds asked at once.
const ASKED_AT_ONCE: usize = 64;
/// How often an empty node asks. In a founding the others may be a moment ahead of this node; two
/// rounds that both find a cluster are no such moment.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds that must find a cluster before the log says so.
const ROUNDS: u32 = 2;

impl System {
    /// A seed that belongs to a cluster, and which.
    async fn cluster_of_a_seed(&self) -> Option<(String, ClusterId)> {
        let own = &self.description.peer_address;
        let others = self.seeds.iter().filter(|seed| *seed != own);
        let answers = others.map(async |seed| {
            let answer = self.transport.probe(seed).await.ok()?;
            let cluster = ClusterId::from_bytes(&answer.cluster_id).filter(|c| c.0 != 0)?;
            Some((seed.clone(), cluster))
        });
        let found = stream::iter(answers).buffer_unordered(ASKED_AT_ONCE);
        found.filter_map(async |found| found).boxed().next().await
    }

    /// Refuses to become part of a cluster beside the one the seeds belong to; `wanted` is the
    /// cluster that is being founded, if it has an id yet.
    pub(super) async fn refuse_second_cluster(
        &self,
        wanted: Option<ClusterId>,
    ) -> Result<(), ApiError> {
        match self.cluster_of_a_seed().await {
            Some((seed, cluster))
                if Some(cluster) != wanted && !defect!(WIPED_FOUNDER_FOUNDS_AGAIN) =>
            {
                Err(ApiError::FailedPrecondition(belongs(&seed, cluster)))
            }
            _ => Ok(()),
        }
    }

    /// Says in the log, once, that this empty node stands beside a cluster.
    pub(super) async fn notice_cluster(self: Arc<Self>, stop: Stop) {
        let mut found_in_a_row = 0;
        while self.identity.membership().is_none() && found_in_a_row < ROUNDS {
            if stop.or(holdfast_runtime::sleep(ROUND)).await.is_none() {
                return;
            }
            let Some(found) = stop.or(self.cluster_of_a_seed()).await else { return };
            let is_founding = self.founding.try_lock().is_err();
            match found {
                Some((seed, cluster)) if !is_founding => {
                    found_in_a_row += 1;
                    if found_in_a_row == ROUNDS && self.identity.membership().is_none() {
                        tracing::error!("{}", belongs(&seed, cluster));
                    }
                }
                _ => found_in_a_row = 0,
            }
        }
    }
}

fn belongs(seed: &str, cluster: ClusterId) -> String {
    format!(
        "this node is empty, and {seed} belongs to cluster {cluster}: if this node was part of it, \
         its data is lost and it must join as a new node; it cannot found another cluster beside it"
    )
}
