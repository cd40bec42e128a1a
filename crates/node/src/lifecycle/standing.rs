//! The node before the others: introduced before it takes part, ended once it is refused.

use std::collections::BTreeMap;

use super::{Node, StartError};
use crate::peers::Standing;
use crate::registry::timings;

impl Node {
    /// Introduces the node to everybody it knows, before it takes part in anything. It waits for
    /// the silent as long as its vote waits anyway after a restart.
    pub(super) async fn introduce(&self) -> Result<(), StartError> {
        let mut nodes: BTreeMap<_, _> = self.identity.known_addresses().into_iter().collect();
        let map = self.map.load();
        nodes.extend(map.nodes.values().map(|node| (node.id, node.peer_address.clone())));
        let patience = timings(&self.config).boot_delay();
        self.transport.introduce(&nodes, patience).await;
        let standing = self.transport.standing().borrow().clone();
        match standing {
            Standing::Refused(reason) => Err(StartError::Refused(self.remember(reason).await)),
            Standing::Unknown | Standing::Accepted => Ok(()),
        }
    }

    /// Returns once another node refuses this one, with its reason: data was lost or rolled back,
    /// and the process must end without taking part in anything more. Remembered on disk: the
    /// directory never starts again.
    pub async fn refused(&self) -> String {
        let mut standing = self.transport.standing();
        loop {
            if let Standing::Refused(reason) = standing.borrow_and_update().clone() {
                return self.remember(reason).await;
            }
            if standing.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn remember(&self, refusal: String) -> String {
        let (identity, reason) = (self.identity.clone(), refusal.clone());
        let remembered = self.pool.run(move || identity.refuse(&reason)).await;
        if !matches!(remembered, Ok(Ok(()))) {
            tracing::warn!("the refusal cannot be remembered; the next start is refused again");
        }
        refusal
    }
}
