//! Leaders that change all the time.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use holdfast_model::RangeId;

use super::{Field, Nemesis, Proof};

/// Attempts to have one transfer done at least.
const ATTEMPTS_MAX: usize = 10;
/// What one transfer is given.
const LIMIT: Duration = Duration::from_secs(2);

/// Each range of the load is led by somebody else a few times a second.
#[derive(Default)]
pub(super) struct Storm {
    asked: u64,
    done: u64,
}

#[async_trait(?Send)]
impl Nemesis for Storm {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.step(field).await
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        let admin = field.client.with_deadline(LIMIT)?.cluster();
        for range in field.ranges()? {
            self.asked += 1;
            let transfer = admin.transfer_leader(RangeId(range), None);
            // It may be refused while others do their work: nobody is up to date, or reached.
            if let Ok(Ok(_)) = tokio::time::timeout(LIMIT, transfer).await {
                self.done += 1;
            }
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        // While others did their work nobody may have been there to lead.
        for _ in 0..ATTEMPTS_MAX {
            if self.done > 0 {
                break;
            }
            self.step(field).await?;
        }
        let words = format!("{} of {} transfers done", self.done, self.asked);
        Ok(Proof::of(self.done > 0, words))
    }
}
