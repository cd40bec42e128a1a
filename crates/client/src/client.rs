//! The handle users hold, how it is made, and what it keeps.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::limits::{REQUEST_DEADLINE_DEFAULT, REQUEST_DEADLINE_MAX};
use holdfast_model::{ClusterMap, DEFAULT_KEYSPACE};
use holdfast_runtime::{Tasks, sleep, spawn};
use holdfast_wire::v1;

use crate::call::{Kind, Limit, Plan, Prefer, Target};
use crate::doors::Doors;
use crate::error::Error;
use crate::map::{MapCache, Pool, Range};
use crate::method;
use crate::session::{RangeSession, Sessions};
use crate::types::{FollowerChoice, ReadLevel};

/// How long a connection may take to be made, unless the builder says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the keeper looks for idle sessions; they end after 15 minutes of range time.
const SESSION_BEAT: Duration = Duration::from_secs(240);
/// What closing waits for, at most.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A client of one cluster. Clones share everything: connections, map, sessions.
///
/// Made by [`Client::connect`] or [`Client::builder`]. Every call is complete in itself: it finds
/// the range of its key, follows the leader, retries what may be retried and ends by its
/// deadline. Mutations run exactly once (see [`ClientBuilder::sessions`]).
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
    /// As it travels: empty for `default`.
    pub(crate) keyspace: Arc<str>,
    pub(crate) deadline: Duration,
    pub(crate) read_level: ReadLevel,
}

/// What a client was told when it was made.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) sessions: bool,
    pub(crate) direct: bool,
    pub(crate) follower_choice: FollowerChoice,
}

/// What all clones of a client share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) doors: Doors,
    pub(crate) cache: Arc<MapCache>,
    pub(crate) sessions: Sessions,
    tasks: Tasks,
    /// What gives locks and places in queues back after their owners have been dropped.
    pub(crate) farewells: Tasks,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.ask_to_stop();
    }
}

/// Options of a client. Made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    keyspace: String,
    deadline: Duration,
    read_level: ReadLevel,
    connect_timeout: Duration,
    sessions: bool,
    direct: bool,
    follower_choice: FollowerChoice,
    doors: Doors,
}

impl ClientBuilder {
    /// Keyspace of the handle; [`Client::keyspace`] gives handles on others. Default: `default`.
    #[must_use]
    pub fn keyspace(mut self, name: impl Into<String>) -> Self {
        self.keyspace = name.into();
        self
    }

    /// How long a call may take, retries included; at most 60 s. Default: 5 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Read level of reads that do not say. Default: linearizable.
    #[must_use]
    pub fn read_level(mut self, level: ReadLevel) -> Self {
        self.read_level = level;
        self
    }

    /// How long a connection may take to be made. Default: 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether mutations run in sessions, exactly once. Default: yes.
    ///
    /// Without sessions a mutation runs at most once: it is never sent again after an attempt
    /// whose outcome is unknown, and ends as [`Error::Unknown`] then.
    #[must_use]
    pub fn sessions(mut self, on: bool) -> Self {
        self.sessions = on;
        self
    }

    /// The first endpoint answers every request itself, or refuses it. Nothing is routed, nothing
    /// is retried, and mutations run without sessions. Default: no.
    #[must_use]
    pub fn direct(mut self, on: bool) -> Self {
        self.direct = on;
        self
    }

    /// Which replica answers follower reads. Default: each in turn.
    #[must_use]
    pub fn follower_choice(mut self, choice: FollowerChoice) -> Self {
        self.follower_choice = choice;
        self
    }

    /// Other doors to the world than the real ones: for simulation.
    #[must_use]
    pub fn doors(mut self, doors: Doors) -> Self {
        self.doors = doors;
        self
    }

    /// A client that has not spoken to anyone yet: the first call finds the cluster.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no endpoint, or a deadline over 60 s.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<Client, Error> {
        if self.endpoints.is_empty() {
            return Err(Error::Invalid("no endpoint is given".to_owned()));
        }
        check_deadline(self.deadline)?;
        let pool = Pool::new(&self.endpoints, self.doors.clone(), self.connect_timeout);
        let cache = Arc::new(MapCache::new(pool));
        let tasks = Tasks::new();
        let inner = Arc::new(Inner {
            config: Config {
                sessions: self.sessions && !self.direct,
                direct: self.direct,
                follower_choice: self.follower_choice,
            },
            sessions: Sessions::new(self.doors.entropy.clone()),
            doors: self.doors,
            cache: cache.clone(),
            tasks: tasks.clone(),
            farewells: Tasks::new(),
        });
        if !self.direct {
            tasks.spawn(cache.follow(tasks.stop_wish()));
        }
        if inner.config.sessions {
            // The keeper must not keep the client alive: it holds a weak handle.
            let (weak, stop) = (Arc::downgrade(&inner), tasks.stop_wish());
            tasks.spawn(async move {
                while stop.or(sleep(SESSION_BEAT)).await.is_some() {
                    let Some(inner) = weak.upgrade() else { return };
                    inner.keep_sessions_alive().await;
                }
            });
        }
        let keyspace = wire_name(&self.keyspace);
        let (deadline, read_level) = (self.deadline, self.read_level);
        Ok(Client { inner, keyspace, deadline, read_level })
    }

    /// A client that knows the cluster.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`]; [`Error::Deadline`] if no endpoint answered in time;
    /// [`Error::FailedPrecondition`] if the cluster has not been founded.
    pub async fn connect(self) -> Result<Client, Error> {
        let is_direct = self.direct;
        let client = self.build()?;
        if !is_direct {
            client.ready().await?;
        }
        Ok(client)
    }
}

impl Client {
    /// A client of the cluster behind `endpoints` (`host:port`), with default options. One
    /// endpoint that works is enough: the others are learned from the cluster.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Self, Error> {
        Self::builder(endpoints).connect().await
    }

    /// Options for a client of the cluster behind `endpoints` (`host:port`).
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), holdfast_client::Error> {
    /// use std::time::Duration;
    /// use holdfast_client::{Client, ReadLevel};
    ///
    /// let client = Client::builder(["10.0.0.1:7401", "10.0.0.2:7401"])
    ///     .keyspace("orders")
    ///     .deadline(Duration::from_secs(2))
    ///     .read_level(ReadLevel::Lease)
    ///     .connect()
    ///     .await?;
    /// # drop(client);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> ClientBuilder {
        ClientBuilder {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            keyspace: DEFAULT_KEYSPACE.to_owned(),
            deadline: REQUEST_DEADLINE_DEFAULT,
            read_level: ReadLevel::Linearizable,
            connect_timeout: CONNECT_TIMEOUT,
            sessions: true,
            direct: false,
            follower_choice: FollowerChoice::RoundRobin,
            doors: Doors::default(),
        }
    }

    /// A handle on another keyspace, over the same connections.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Self {
        Self { keyspace: wire_name(name), ..self.clone() }
    }

    /// A handle with another deadline.
    ///
    /// # Errors
    /// [`Error::Invalid`]: over 60 s.
    pub fn with_deadline(&self, deadline: Duration) -> Result<Self, Error> {
        check_deadline(deadline)?;
        Ok(Self { deadline, ..self.clone() })
    }

    /// A handle whose reads are of `level` unless they say otherwise.
    #[must_use]
    pub fn with_read_level(&self, read_level: ReadLevel) -> Self {
        Self { read_level, ..self.clone() }
    }

    /// Name of the keyspace this handle works on.
    pub fn keyspace_name(&self) -> &str {
        if self.keyspace.is_empty() { DEFAULT_KEYSPACE } else { &self.keyspace }
    }

    /// Waits until the cluster's map is known.
    ///
    /// # Errors
    /// [`Error::Deadline`]; [`Error::FailedPrecondition`] if the cluster has not been founded.
    pub async fn ready(&self) -> Result<(), Error> {
        let limit = self.limit();
        let mut pause = Duration::from_millis(10);
        while self.inner.cache.routes().is_empty() {
            match self.inner.cache.refresh(0, limit.deadline).await {
                Ok(()) => break,
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) if limit.deadline.remaining() <= pause => {
                    return Err(Error::Deadline { deadline: limit.total, last: error.to_string() });
                }
                Err(_) => sleep(self.inner.jitter(pause)).await,
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
        Ok(())
    }

    /// The map as this client has it now; empty before the first call.
    pub fn map(&self) -> ClusterMap {
        self.inner.cache.routes().map.clone()
    }

    /// Waits until what was dropped (locks, permits, leaderships) has been given back, and ends
    /// this client's sessions, so that the ranges need not remember it; a second for each at most.
    /// Worth its round trips for short-lived clients: without it what was dropped ends by its
    /// TTL, and sessions after 15 idle minutes. Other clones can go on; their next mutation opens
    /// new sessions.
    pub async fn close(self) {
        // What has not been given back by then is left to its TTL.
        let _ = self.inner.farewells.stop(CLOSE_PATIENCE.min(self.deadline)).await;
        let limit = Limit::after(CLOSE_PATIENCE.min(self.deadline));
        self.inner.close_sessions(limit).await;
    }

    pub(crate) fn limit(&self) -> Limit {
        Limit::after(self.deadline)
    }

    pub(crate) fn wire_keyspace(&self) -> String {
        self.keyspace.as_ref().to_owned()
    }
}

fn wire_name(name: &str) -> Arc<str> {
    if name == DEFAULT_KEYSPACE { Arc::from("") } else { Arc::from(name) }
}

pub(crate) fn check_deadline(deadline: Duration) -> Result<(), Error> {
    if deadline > REQUEST_DEADLINE_MAX || deadline.is_zero() {
        let text = format!("deadline: above 0, at most {REQUEST_DEADLINE_MAX:?}: {deadline:?}");
        return Err(Error::Invalid(text));
    }
    Ok(())
}

impl Inner {
    /// This client's session in `range`, opened there.
    ///
    /// # Errors
    /// As a call, but never [`Error::Unknown`]: whatever the session was for has not been sent.
    pub(crate) async fn session(
        &self,
        keyspace: &str,
        range: &Range,
        limit: Limit,
    ) -> Result<Arc<RangeSession>, Error> {
        let session = self.sessions.of_range(range.id(), &range.state.session);
        if session.opened.initialized() {
            return Ok(session);
        }
        let opened = session.opened.get_or_try_init(|| self.open(keyspace, &session, limit)).await;
        match opened {
            Ok(_) => Ok(session),
            Err(Error::Unknown(last)) => {
                let last = format!("opening a session: {last}");
                Err(Error::Deadline { deadline: limit.total, last })
            }
            Err(error) => Err(error),
        }
    }

    async fn open(
        &self,
        keyspace: &str,
        session: &RangeSession,
        limit: Limit,
    ) -> Result<Duration, Error> {
        let request = v1::SessionOpenRequest {
            keyspace: keyspace.to_owned(),
            range_id: session.range.0,
            client_id: session.identity.bytes.clone(),
        };
        let answer = self.call(&method::SESSION_OPEN, &request, plan_of(session, limit)).await;
        match answer {
            Ok(answer) => Ok(Duration::from_millis(answer.idle_max_ms)),
            Err(ended) => {
                if ended.session_expired {
                    self.sessions.expire(session.identity.generation);
                }
                Err(ended.error)
            }
        }
    }

    /// Renews every session nobody used since the last beat.
    async fn keep_sessions_alive(&self) {
        for (keyspace, session) in self.open_sessions() {
            if session.take_used() {
                continue;
            }
            let request = v1::SessionKeepAliveRequest {
                keyspace,
                range_id: session.range.0,
                client_id: session.identity.bytes.clone(),
                watermark: session.watermark().unwrap_or_default(),
            };
            let limit = Limit::after(REQUEST_DEADLINE_DEFAULT);
            let plan = plan_of(&session, limit);
            if let Err(ended) = self.call(&method::SESSION_KEEP_ALIVE, &request, plan).await {
                tracing::debug!(range = %session.range, error = %ended.error, "session keep-alive");
                if ended.session_expired {
                    self.sessions.expire(session.identity.generation);
                }
            }
        }
    }

    async fn close_sessions(&self, limit: Limit) {
        let open = self.open_sessions();
        let closing = open.iter().map(|(keyspace, session)| async move {
            // From here on nobody may begin an operation under this identity.
            self.sessions.expire(session.identity.generation);
            let request = v1::SessionCloseRequest {
                keyspace: keyspace.clone(),
                range_id: session.range.0,
                client_id: session.identity.bytes.clone(),
            };
            let plan = plan_of(session, limit);
            // An error leaves the session to its idle end.
            let _ = self.call(&method::SESSION_CLOSE, &request, plan).await;
        });
        futures_util::future::join_all(closing).await;
    }

    /// Every open session with the name of its keyspace.
    fn open_sessions(&self) -> Vec<(String, Arc<RangeSession>)> {
        let routes = self.cache.routes();
        let named = |range: &Range| {
            let spaces = routes.map.keyspaces.values();
            let mut of_it = spaces.filter(|space| space.id == range.descriptor.keyspace);
            of_it.next().map(|space| space.name.clone())
        };
        routes
            .all_ranges()
            .filter_map(|range| Some((named(range)?, range.state.session.load_full()?)))
            .filter(|(_, session)| session.opened.initialized())
            .collect()
    }

    /// Runs `task` on this client's account: it is asked to stop when the client is gone.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stop_wish();
        spawn(async move {
            stop.or(task).await;
        });
    }
}

fn plan_of(session: &RangeSession, limit: Limit) -> Plan<'static> {
    Plan {
        target: Target::Range(session.range),
        prefer: Prefer::Leader,
        kind: Kind::Recognised,
        limit,
        waits: false,
    }
}
