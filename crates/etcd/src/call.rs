//! What a request says beside its message: when the answer is due, who asks, of which keyspace.

use std::sync::Arc;

use holdfast_model::KeyspaceId;
use holdfast_node::api::{
    ApiError, Call, Cluster as _, Gateway, Operation, ReadLevel, ReadOptions,
};
use holdfast_node::auth::Identity;
use holdfast_node::services::timeout;
use holdfast_runtime::Deadline;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use crate::{Answers, EtcdError, Options, error_of};

/// Names the keyspace of a call, where it is not the listener's.
const KEYSPACE_HEADER: &str = "holdfast-keyspace";

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
}

impl Service {
    /// The services of `gateway`.
    pub fn new(gateway: Gateway, options: Arc<Options>) -> Self {
        Self { gateway, options }
    }

    /// Refuses a request that changes something and is larger than it may be.
    pub(crate) fn check_size(&self, request: &impl Message) -> Result<(), EtcdError> {
        let fits = request.encoded_len() <= self.options.request_bytes_max;
        if fits { Ok(()) } else { Err(EtcdError::RequestTooLarge) }
    }

    /// The call a request makes.
    pub(crate) fn asked(&self, metadata: &MetadataMap) -> Result<Asked, Status> {
        let time = timeout(metadata).map_err(|error| error_of(&error))?;
        let keyspace = match metadata.get(KEYSPACE_HEADER) {
            None => self.options.keyspace.clone(),
            Some(name) => name.to_str().unwrap_or_default().to_owned(),
        };
        let call = Call {
            identity: Identity::ANONYMOUS,
            deadline: Deadline::after(self.gateway.limits().deadline(time)),
            direct: false,
        };
        Ok(Asked { call, keyspace })
    }

    /// Makes answers of a keyspace; called after the keyspace has answered, when the map knows it.
    pub(crate) fn answers(&self, asked: &Asked) -> Answers {
        let map = self.gateway.map(&asked.call).ok();
        let keyspace = map.as_ref().and_then(|map| map.keyspace(&asked.keyspace).ok());
        let id = keyspace.map_or(KeyspaceId(0), |keyspace| keyspace.id);
        Answers::of(map.as_ref().map_or_else(Default::default, |map| map.cluster), id)
    }

    /// Counts a call and turns its result into gRPC's.
    pub(crate) fn done<T>(
        &self,
        operation: Operation,
        level: Option<ReadLevel>,
        started: std::time::Duration,
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
        }
    }
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
