//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Calls `look` until it succeeds.
///
/// # Errors
/// What it last said, when `limit` is over.
pub async fn eventually<T>(limit: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("still after {limit:?}"));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
