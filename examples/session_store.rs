//! Web sessions that end by themselves.
//!
//! `make cluster`, then `cargo run --release -p holdfast-examples --example session_store`.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_client::Client;

const LIFE: Duration = Duration::from_secs(2);
/// A linearizable read never shows a key later than 100 ms and a commit after its time.
const LATEST: Duration = Duration::from_millis(500);

/// Sessions by id.
struct Sessions {
    client: Client,
    place: String,
}

impl Sessions {
    fn key(&self, id: &str) -> String {
        format!("{}/{id}", self.place)
    }

    /// Begins a session; an id that is in use is refused.
    async fn log_in(&self, id: &str, user: &str) -> Result<()> {
        let put = self.client.put(self.key(id), user.to_owned()).ttl(LIFE).if_absent();
        if !put.await?.applied {
            bail!("session {id} exists");
        }
        Ok(())
    }

    /// Whose session it is, if it lives. Its life begins anew, unless it ended meanwhile.
    async fn touch(&self, id: &str) -> Result<Option<String>> {
        let Some(entry) = self.client.get(self.key(id)).await? else { return Ok(None) };
        let put = self.client.put(self.key(id), entry.value.clone()).ttl(LIFE);
        let touched = put.if_revision(entry.revision).await?;
        let user = String::from_utf8(entry.value.to_vec()).context("a user is text")?;
        Ok(touched.applied.then_some(user))
    }

    async fn log_out(&self, id: &str) -> Result<bool> {
        Ok(self.client.delete(self.key(id)).await?.deleted == 1)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let client = holdfast_examples::connect().await?;
    let sessions = Sessions { client, place: holdfast_examples::unique("session") };
    sessions.log_in("s1", "ann").await?;
    sessions.log_in("s2", "bob").await?;
    ensure!(sessions.log_in("s1", "eve").await.is_err(), "an id is used once");

    // Ann stays active beyond the life of an idle session; Bob does not.
    for _ in 0..2 {
        tokio::time::sleep(LIFE * 6 / 10).await;
        ensure!(sessions.touch("s1").await?.as_deref() == Some("ann"));
    }
    tokio::time::sleep(LATEST).await;
    ensure!(sessions.touch("s2").await?.is_none(), "bob was away too long");
    println!("ann is still logged in, bob is not");

    ensure!(sessions.log_out("s1").await?);
    ensure!(sessions.touch("s1").await?.is_none());
    println!("session_store: done");
    Ok(())
}
