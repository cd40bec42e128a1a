//! Reading single keys.

use bytes::Bytes;
use holdfast_model::{Revision, position};
use holdfast_wire::v1;

use crate::call::{Kind, Plan, Prefer, Target};
use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::options::{awaitable, with_deadline, with_read_options};
use crate::types::{Entry, Origin, ReadLevel, Staleness};

impl Client {
    /// Reads `key`. Awaited directly it gives `Option<Entry>`; [`Get::send`] gives the whole
    /// answer.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// use holdfast_client::ReadLevel;
    ///
    /// let entry = client.get("config/port").await?;
    /// let answer = client.get("config/port").level(ReadLevel::Follower).send().await?;
    /// println!("{entry:?}, at most {:?} old", answer.staleness);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, key: impl Into<Bytes>) -> Get {
        Get {
            client: self.clone(),
            key: key.into(),
            read: self.read_options(),
            revision: Revision::default(),
        }
    }

    pub(crate) fn read_options(&self) -> v1::ReadOptions {
        v1::ReadOptions { level: self.read_level.to_wire().into(), ..Default::default() }
    }
}

/// Which replica a read of these options should go to.
pub(crate) fn prefer(read: &v1::ReadOptions) -> Prefer {
    if read.level() == ReadLevel::Follower.to_wire() { Prefer::Nearest } else { Prefer::Leader }
}

/// Options of a get. Made by [`Client::get`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Get {
    client: Client,
    key: Bytes,
    read: v1::ReadOptions,
    revision: Revision,
}

/// Answer of a get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetAnswer {
    /// The entry; `None`: no such key.
    pub entry: Option<Entry>,
    /// Who answered, and the point in history the answer shows.
    pub origin: Origin,
    /// Follower reads: how old the answer can be at most.
    pub staleness: Option<Staleness>,
}

impl Get {
    with_deadline!();
    with_read_options!();

    /// Reads the state at an older revision of the key's range, as far as history is kept.
    pub fn at_revision(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }

    /// Reads, and answers with everything there is to know.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`] for an explicit revision;
    /// [`Error::TooStale`]; otherwise [`Error::Deadline`] and what the request is at fault for.
    pub async fn send(self) -> Result<GetAnswer, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, key, read, revision } = self;
        let plan = Plan {
            target: Target::Position(&client.keyspace, position(&key)),
            prefer: prefer(&read),
            kind: Kind::Read,
            limit: client.limit(),
            waits: false,
        };
        let request = v1::GetRequest {
            keyspace: client.wire_keyspace(),
            key,
            read: (read != v1::ReadOptions::default()).then_some(read),
            revision: revision.0,
            direct: client.inner.config.direct,
        };
        let answer = client.inner.call(&method::GET, &request, plan).await;
        let answer = answer.map_err(|ended| ended.error)?;
        Ok(GetAnswer {
            entry: if answer.found { answer.entry.map(Entry::from) } else { None },
            origin: Origin::from(answer.header.as_ref()),
            staleness: answer.staleness.map(Staleness::from),
        })
    }

    async fn entry(self) -> Result<Option<Entry>, Error> {
        Ok(self.send().await?.entry)
    }
}

awaitable!(Get => Option<Entry>, entry);
