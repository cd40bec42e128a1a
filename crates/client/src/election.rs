//! Leader election: a queue for one office, whose holder says who it is.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use holdfast_model::Revision;

use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::options::with_deadline;
use crate::streams::Pauses;
use crate::turns::{Place, Turn, Turns};
use crate::types::{Entry, ReadLevel};
use crate::watch::{EventKind, Watch};

/// TTL of a leadership that does not say.
const TTL_DEFAULT: Duration = Duration::from_secs(10);

impl Client {
    /// The election called `name` (1 … 200 bytes of UTF-8). Its keys begin with
    /// `election/{name}/`; a name with a `{tag}` of its own keeps it.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let leadership = client.election("scheduler").campaign("host-7").await?;
    /// println!("leading in term {}", leadership.fencing_token());
    /// leadership.lost().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        Election { client: self.clone(), name: name.into(), ttl: TTL_DEFAULT, patience: None }
    }
}

/// An election, by name. Made by [`Client::election`].
#[derive(Clone, Debug)]
#[must_use = "an election does nothing until something is asked of it"]
pub struct Election {
    client: Client,
    name: Bytes,
    ttl: Duration,
    patience: Option<Duration>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// What it called itself.
    pub value: Bytes,
    /// Grows with every leader, and fences what they do.
    pub fencing_token: u64,
}

impl From<Entry> for Leader {
    fn from(entry: Entry) -> Self {
        Self { value: entry.value, fencing_token: entry.revision.0 }
    }
}

impl Election {
    with_deadline!();

    /// A leader that falls silent is replaced after this long; ≥ 1 s. Default: 10 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long [`Election::campaign`] waits, however long that is. Default: the deadline.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Waits to become the leader, who calls itself `value` (at most 1,024 bytes). Candidates
    /// lead in the order in which they came. The leadership ends when it is released, dropped or
    /// lost; giving up waiting, also by dropping the future, withdraws the candidate.
    ///
    /// # Errors
    /// [`Error::Deadline`]: others led all the time, or the cluster did not answer.
    /// [`Error::Unknown`]: the office may have been taken; it is given back in the background, or
    /// ends by itself after its TTL.
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Leadership, Error> {
        check_deadline(self.client.deadline)?;
        let client = self.reader();
        let (place, ttl, value) = (self.place()?, self.ttl, value.into());
        let patience = self.patience.unwrap_or(self.client.deadline);
        Turns { client, place, slots: 1, ttl, value }.take(patience).await.map(Leadership)
    }

    /// Who leads now; `None`: nobody. Always linearizable.
    ///
    /// # Errors
    /// As any read.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        Ok(self.look().await?.0)
    }

    /// Waits until someone leads whose token is not `seen` (0: anyone), as long as it takes.
    ///
    /// # Errors
    /// What a read is refused with; what passes is waited out.
    pub async fn changed(&self, seen: u64) -> Result<Leader, Error> {
        let mut leaders = self.observe();
        loop {
            if let Some(leader) = leaders.next().await?.filter(|l| l.fencing_token != seen) {
                return Ok(leader);
            }
        }
    }

    /// Who leads now, then every change, as it happens.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// let mut leaders = client.election("scheduler").observe();
    /// loop {
    ///     match leaders.next().await? {
    ///         Some(leader) => println!("{:?} leads", leader.value),
    ///         None => println!("nobody leads"),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn observe(&self) -> Leaders {
        let (election, pauses) = (self.clone(), Pauses::default());
        Leaders { election, watch: None, pending: VecDeque::new(), told: None, pauses }
    }

    fn place(&self) -> Result<Place, Error> {
        Place::new("election", &self.name)
    }

    fn reader(&self) -> Client {
        self.client.with_read_level(ReadLevel::Linearizable)
    }

    /// Who leads, and as of which revision.
    async fn look(&self) -> Result<(Option<Leader>, Revision), Error> {
        let answer = self.reader().get(self.place()?.slot(0)).send().await?;
        Ok((answer.entry.map(Leader::from), answer.origin.point.revision))
    }
}

/// The leaders of an election, one after another. Made by [`Election::observe`].
#[derive(Debug)]
pub struct Leaders {
    election: Election,
    watch: Option<Watch>,
    pending: VecDeque<Option<Leader>>,
    /// Token of the last answer, 0 for nobody; none before the first.
    told: Option<u64>,
    pauses: Pauses,
}

impl Leaders {
    /// The next leader, as long as it takes; `None`: nobody leads any more, or yet. Every leader
    /// is given, also one that came and went meanwhile, as long as history reaches back. Cancel
    /// safe.
    ///
    /// # Errors
    /// What a read is refused with; what passes is waited out.
    pub async fn next(&mut self) -> Result<Option<Leader>, Error> {
        loop {
            while let Some(leader) = self.pending.pop_front() {
                let token = leader.as_ref().map_or(0, |leader| leader.fencing_token);
                if self.told != Some(token) {
                    self.told = Some(token);
                    return Ok(leader);
                }
            }
            match self.more().await {
                Ok(()) => self.pauses.reset(),
                // What history does not hold any more is skipped; the present is read again.
                Err(Error::Compacted { .. } | Error::FutureRevision { .. }) => self.watch = None,
                Err(error) if error.is_retryable() => self.watch = None,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the leaders as a stream that ends after an error.
    pub fn into_stream(
        self,
    ) -> impl Stream<Item = Result<Option<Leader>, Error>> + Send + Unpin + 'static {
        let step = |leaders: Option<Self>| async move {
            let mut leaders = leaders?;
            match leaders.next().await {
                Ok(leader) => Some((Ok(leader), Some(leaders))),
                Err(error) => Some((Err(error), None)),
            }
        };
        Box::pin(stream::unfold(Some(self), step))
    }

    async fn more(&mut self) -> Result<(), Error> {
        let Some(watch) = &mut self.watch else {
            self.pauses.wait(&self.election.client).await;
            let (leader, at) = self.election.look().await?;
            let key = self.election.place()?.slot(0);
            let watch = self.election.client.watch(key).from_revision(Revision(at.0 + 1));
            self.watch = Some(watch.start().await?);
            self.pending.push_back(leader);
            return Ok(());
        };
        for event in watch.next().await?.events {
            self.pending.push_back(match event.kind {
                EventKind::Put => Some(Leader::from(event.entry)),
                EventKind::Delete => None,
            });
        }
        Ok(())
    }
}

/// An office that is held. Renewed in the background; dropping it resigns.
#[derive(Debug)]
#[must_use = "the leader resigns when this is dropped"]
pub struct Leadership(Turn);

impl Leadership {
    /// The token of this term: greater than that of every leader before. Send it with every
    /// request to what the leader is responsible for, and let that refuse smaller ones.
    pub fn fencing_token(&self) -> u64 {
        self.0.token
    }

    /// Whether the office is known to be lost: someone else may lead.
    ///
    /// `false` is no proof: this process may have been paused since the last renewal.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Waits until the office is lost: its lease has ended, or was not renewed in time.
    pub async fn lost(&self) {
        self.0.lost().await;
    }

    /// Resigns; the first candidate leads then.
    ///
    /// # Errors
    /// Where that could not be said in time; the office ends by itself after its TTL.
    pub async fn release(self) -> Result<(), Error> {
        self.0.release().await
    }
}
