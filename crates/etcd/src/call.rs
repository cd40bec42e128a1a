//! What a request says beside its message: when the answer is due, who asks, of which keyspace.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, Either};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use holdfast_model::{KeyspaceId, KeyspaceKind};
use holdfast_node::api::{
    ApiError, Call, Cluster as _, EtcdRead, Gateway, Header, Operation, Rank, ReadLevel,
    ReadOptions,
};
use holdfast_node::services::{identity, timeout};
use holdfast_runtime::{Deadline, sleep};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use crate::{Answers, EtcdError, Options, error_of};

/// Names the keyspace of a call, where it is not the listener's.
const KEYSPACE_HEADER: &str = "holdfast-keyspace";
/// Asks to be refused where no leader is known, and to end streams then.
const LEADER_HEADER: &str = "hasleader";
/// Tells which version of the API the client speaks.
const VERSION_HEADER: &str = "client-api-version";
/// How often streams that want a leader look for one: etcd's election timeout.
const LEADER_LOOK: Duration = Duration::from_secs(1);
/// A stream ends when none was seen so often in a row.
const LEADERLESS_LOOKS_MAX: usize = 3;
/// What etcd puts around a request in its log: the number of the request (14 bytes with its tags),
/// the tag of the request and its length (4 bytes up to 2 MiB).
const ENTRY_BYTES: usize = 14 + 4;

/// The services of the etcd API on one gateway, for one keyspace unless a call names another.
#[derive(Clone, Debug)]
pub struct Service {
    pub(crate) gateway: Gateway,
    options: Arc<Options>,
}

/// A call and the keyspace it is about.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub call: Call,
    pub keyspace: String,
    /// It is refused where no leader is known.
    pub wants_leader: bool,
}

impl Service {
    /// The services of `gateway`.
    pub fn new(gateway: Gateway, options: Arc<Options>) -> Self {
        Self { gateway, options }
    }

    /// Refuses a request that changes something and is larger than it may be. etcd weighs it as an
    /// entry of its log.
    pub(crate) fn check_size(&self, request: &impl Message) -> Result<(), EtcdError> {
        let fits = request.encoded_len() + ENTRY_BYTES <= self.options.request_bytes_max;
        if fits { Ok(()) } else { Err(EtcdError::RequestTooLarge) }
    }

    /// The call a request makes.
    pub(crate) fn asked(&self, metadata: &MetadataMap) -> Result<Asked, Status> {
        if metadata.get(VERSION_HEADER).is_some_and(|version| !is_utf8(version.as_bytes())) {
            return Err(EtcdError::InvalidClientApiVersion.into());
        }
        let time = timeout(metadata).map_err(|error| error_of(&error))?;
        let keyspace = match metadata.get(KEYSPACE_HEADER) {
            None => self.options.keyspace.clone(),
            Some(name) => name.to_str().unwrap_or_default().to_owned(),
        };
        let call = Call {
            identity: identity(metadata),
            deadline: Deadline::after(self.gateway.limits().deadline(time)),
            direct: false,
        };
        self.check_kind(&call, &keyspace)?;
        let wants_leader = metadata.get(LEADER_HEADER).is_some_and(|value| value == "true");
        if wants_leader && !self.gateway.standing(&keyspace).has_leader {
            return Err(EtcdError::NoLeader.into());
        }
        Ok(Asked { call, keyspace, wants_leader })
    }

    /// The call a request makes, whose caller must have a rank where the keyspace asks for users.
    pub(crate) async fn asked_by(
        &self,
        rank: Rank,
        metadata: &MetadataMap,
    ) -> Result<Asked, Status> {
        let asked = self.asked(metadata)?;
        self.check_rank(&asked, rank).await?;
        Ok(asked)
    }

    /// Refuses who does not have a rank where the keyspace asks for users.
    pub(crate) async fn check_rank(&self, asked: &Asked, rank: Rank) -> Result<(), Failure> {
        Ok(self.gateway.require(&asked.call, &asked.keyspace, rank).await?)
    }

    /// Refuses a keyspace that is known not to be an etcd: what is written natively there keeps
    /// none of the promises of this API.
    fn check_kind(&self, call: &Call, keyspace: &str) -> Result<(), Status> {
        let Ok(map) = self.gateway.map(call) else { return Ok(()) };
        match map.keyspace(keyspace) {
            Ok(found) if found.kind == KeyspaceKind::Native => {
                let text = format!("keyspace {keyspace:?} is not of etcd's kind");
                Err(error_of(&ApiError::FailedPrecondition(text)))
            }
            _ => Ok(()),
        }
    }

    /// When one step of a call that has no deadline of its own is due.
    pub(crate) fn deadline_of_one(&self) -> Deadline {
        Deadline::after(self.gateway.limits().deadline(None))
    }

    /// The version of etcd that clients are told.
    pub(crate) fn version(&self) -> &str {
        &self.options.version
    }

    /// The version of a cluster of such servers.
    pub(crate) fn cluster_version(&self) -> String {
        self.options.cluster_version()
    }

    /// The longest message that is taken or, where it can be cut, sent.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.options.message_bytes_max()
    }

    /// How often a quiet watch that wants to be told is told how far it is, and a little more, so
    /// that streams opened together do not stay together.
    pub(crate) fn progress_notify_interval(&self) -> Duration {
        let interval = Duration::from_millis(self.options.progress_notify_interval_ms);
        let spread = self.gateway.now().subsec_nanos() % 100;
        interval + interval * spread / 1_000
    }

    /// How the asked keyspace stands: as this node knows it, or as another one tells.
    pub(crate) async fn header_now(&self, asked: &Asked) -> Result<Header, ApiError> {
        if let Some(header) = self.gateway.standing(&asked.keyspace).header {
            return Ok(header);
        }
        let (keyspace, read) = (asked.keyspace.clone(), read_options(true));
        let nothing = EtcdRead { keyspace, read, ..EtcdRead::default() };
        Ok(self.gateway.etcd_read(&asked.call, nothing).await?.header)
    }

    /// A stream's items while a leader is known, if its caller wants one.
    pub(crate) fn while_led<T: Send + 'static>(
        &self,
        asked: &Asked,
        items: BoxStream<'static, Result<T, Status>>,
    ) -> BoxStream<'static, Result<T, Status>> {
        if !asked.wants_leader {
            return items;
        }
        let lost = leader_lost(self.gateway.clone(), asked.keyspace.clone()).boxed();
        let state = Some((items, lost));
        stream::unfold(state, |state| async move {
            let (mut items, lost) = state?;
            match future::select(items.next(), lost).await {
                Either::Left((item, lost)) => Some((item?, Some((items, lost)))),
                Either::Right(((), _)) => Some((Err(EtcdError::NoLeader.into()), None)),
            }
        })
        .boxed()
    }

    /// Makes answers of a keyspace; called after the keyspace has answered, when the map knows it.
    pub(crate) fn answers(&self, asked: &Asked) -> Answers {
        let map = self.gateway.map(&asked.call).ok();
        let keyspace = map.as_ref().and_then(|map| map.keyspace(&asked.keyspace).ok());
        let id = keyspace.map_or(KeyspaceId(0), |keyspace| keyspace.id);
        Answers::of(map.as_ref().map_or_else(Default::default, |map| map.cluster), id)
    }

    /// The same for a call of the lock or election service.
    ///
    /// etcd carries those out as a client of itself, and hands on what that client makes of an
    /// error: its text, without a code. What only says that this node cannot serve now keeps its
    /// code here: by that callers turn to another one.
    pub(crate) fn recipe_done<T>(
        &self,
        started: Duration,
        result: Result<T, Failure>,
    ) -> Result<Response<T>, Status> {
        self.done(Operation::Lock, None, started, result).map_err(|status| match status.code() {
            Code::Unavailable => status,
            _ => Status::unknown(status.message()),
        })
    }

    /// Counts a call and turns its result into gRPC's.
    pub(crate) fn done<T>(
        &self,
        operation: Operation,
        level: Option<ReadLevel>,
        started: Duration,
        result: Result<T, Failure>,
    ) -> Result<Response<T>, Status> {
        let error = match &result {
            Err(Failure::Api(error)) => Some(error),
            _ => None,
        };
        self.gateway.finished(operation, level, error, started);
        result.map(Response::new).map_err(Status::from)
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was refused as etcd refuses it.
    Etcd(EtcdError),
    /// The node could not serve it.
    Api(ApiError),
    /// A recipe on top of the API ended otherwise than hoped; told as it is, without a code.
    Recipe(&'static str),
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Etcd(error) => error.into(),
            Failure::Api(error) => error_of(&error),
            Failure::Recipe(text) => Status::unknown(text),
        }
    }
}

/// Ends when the keyspace has had no leader for a while.
async fn leader_lost(gateway: Gateway, keyspace: String) {
    let mut looks = 0;
    while looks < LEADERLESS_LOOKS_MAX {
        sleep(LEADER_LOOK).await;
        looks = if gateway.standing(&keyspace).has_leader { 0 } else { looks + 1 };
    }
}

fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// An answer of another kind than the question: a defect.
pub(crate) fn unexpected(what: &str, answer: &impl std::fmt::Debug) -> Failure {
    Failure::Api(ApiError::Internal(format!("a {what} was answered with {answer:?}")))
}

/// How current a read has to be: anything the asked node has, or everything that was acknowledged.
pub(crate) fn read_options(serializable: bool) -> ReadOptions {
    let level = if serializable { ReadLevel::Follower } else { ReadLevel::Linearizable };
    ReadOptions { level, ..ReadOptions::default() }
}
