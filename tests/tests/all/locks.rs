//! Locks.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use holdfast_client::Error;
use holdfast_tests::{Rpc, refusal, shared};
use holdfast_wire::v1;

#[test]
fn a_lock_has_one_holder_and_goes_to_the_next_on_release_with_a_larger_token() {
    shared(async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(20))?;
        let first = client.lock("locks/release").acquire().await?;
        let other = cluster.client().await?.with_deadline(Duration::from_secs(20))?;
        let refused = other.lock("locks/release").try_acquire().await?;
        let state = refused.err().context("two hold it")?;
        ensure!(state.held && state.fencing_token == first.fencing_token(), "{state:?}");
        let waiting = tokio::spawn(async move {
            let guard = other.lock("locks/release").acquire().await;
            (guard, Instant::now())
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        ensure!(!waiting.is_finished(), "the second did not wait");
        let token = first.fencing_token();
        let released = Instant::now();
        first.release().await?;
        let (second, granted) = waiting.await?;
        let second = second?;
        ensure!(granted >= released, "granted before it was released");
        ensure!(second.fencing_token() > token, "{} after {token}", second.fencing_token());
        Ok(())
    });
}

/// Takes a lock and never renews it.
async fn take(rpc: &Rpc, name: &'static str, owner: u8) -> anyhow::Result<u64> {
    let request = v1::LockAcquireRequest {
        name: Bytes::from_static(name.as_bytes()),
        owner: Bytes::from(vec![owner; 16]),
        ttl_ms: 1_500,
        ..Default::default()
    };
    let answer = rpc.lock().acquire(request).await?.into_inner();
    ensure!(answer.acquired, "{answer:?}");
    Ok(answer.fencing_token)
}

#[test]
fn a_lock_whose_holder_fell_silent_goes_to_the_next_after_its_ttl_and_not_before() {
    shared(async |cluster| {
        let rpc = cluster.rpc(1).await?;
        let begun = Instant::now();
        let first = take(&rpc, "locks/silent", 1).await?;
        let client = cluster.client().await?.with_deadline(Duration::from_secs(20))?;
        let second = client.lock("locks/silent").acquire().await?;
        let waited = begun.elapsed();
        ensure!(waited >= Duration::from_millis(1_500), "granted after {waited:?}");
        ensure!(second.fencing_token() > first, "{} after {first}", second.fencing_token());
        let late = v1::LockKeepAliveRequest {
            name: Bytes::from_static(b"locks/silent"),
            owner: Bytes::from(vec![1; 16]),
            fencing_token: first,
            ..Default::default()
        };
        let (_, info) = refusal(rpc.lock().keep_alive(late).await)?;
        ensure!(info.code() == v1::ErrorCode::LockNotHeld, "{info:?}");
        Ok(())
    });
}

#[test]
fn a_waiter_that_gave_up_is_never_granted_the_lock() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let first = client.lock("locks/given-up").acquire().await?;
        let impatient = client.with_deadline(Duration::from_secs(2))?;
        let gave_up = impatient.lock("locks/given-up").acquire().await;
        ensure!(matches!(gave_up, Err(Error::Deadline { .. })), "{gave_up:?}");
        let token = first.fencing_token();
        first.release().await?;
        let next = client.lock("locks/given-up").acquire().await?;
        let between = next.fencing_token() - token;
        ensure!(between >= 1, "{token}, then {}", next.fencing_token());
        Ok(())
    });
}
