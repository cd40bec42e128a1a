//! The unary calls, as typed paths.

use std::marker::PhantomData;

use holdfast_wire::v1;

/// One call: its path, what goes in and what comes out.
pub(crate) struct Method<Q, S> {
    pub(crate) path: &'static str,
    types: PhantomData<fn(Q) -> S>,
}

impl<Q, S> Method<Q, S> {
    const fn new(path: &'static str) -> Self {
        Self { path, types: PhantomData }
    }
}

macro_rules! methods {
    ($($name:ident = $path:literal : $request:ident -> $response:ident;)*) => {
        $(pub(crate) const $name: Method<v1::$request, v1::$response> = Method::new($path);)*
    };
}

methods! {
    GET = "/holdfast.v1.Kv/Get": GetRequest -> GetResponse;
    PUT = "/holdfast.v1.Kv/Put": PutRequest -> PutResponse;
    DELETE = "/holdfast.v1.Kv/Delete": DeleteRequest -> DeleteResponse;
    INCREMENT = "/holdfast.v1.Kv/Increment": IncrementRequest -> IncrementResponse;
    TXN = "/holdfast.v1.Kv/Txn": TxnRequest -> TxnResponse;
    BATCH_GET = "/holdfast.v1.Kv/BatchGet": BatchGetRequest -> BatchGetResponse;
    BATCH_WRITE = "/holdfast.v1.Kv/BatchWrite": BatchWriteRequest -> BatchWriteResponse;

    SESSION_OPEN = "/holdfast.v1.Session/Open": SessionOpenRequest -> SessionOpenResponse;
    SESSION_KEEP_ALIVE = "/holdfast.v1.Session/KeepAlive":
        SessionKeepAliveRequest -> SessionKeepAliveResponse;
    SESSION_CLOSE = "/holdfast.v1.Session/Close": SessionCloseRequest -> SessionCloseResponse;

    LEASE_GRANT = "/holdfast.v1.Lease/Grant": LeaseGrantRequest -> LeaseGrantResponse;
    LEASE_REVOKE = "/holdfast.v1.Lease/Revoke": LeaseRevokeRequest -> LeaseRevokeResponse;
    LEASE_TIME_TO_LIVE = "/holdfast.v1.Lease/TimeToLive":
        LeaseTimeToLiveRequest -> LeaseTimeToLiveResponse;

    LOCK_ACQUIRE = "/holdfast.v1.Lock/Acquire": LockAcquireRequest -> LockAcquireResponse;
    LOCK_KEEP_ALIVE = "/holdfast.v1.Lock/KeepAlive":
        LockKeepAliveRequest -> LockKeepAliveResponse;
    LOCK_RELEASE = "/holdfast.v1.Lock/Release": LockReleaseRequest -> LockReleaseResponse;
    LOCK_INSPECT = "/holdfast.v1.Lock/Inspect": LockInspectRequest -> LockInspectResponse;

    CLUSTER_INIT = "/holdfast.v1.Cluster/Init": InitRequest -> InitResponse;
    CLUSTER_MAP = "/holdfast.v1.Cluster/Map": MapRequest -> MapResponse;
    CLUSTER_STATUS = "/holdfast.v1.Cluster/Status": StatusRequest -> StatusResponse;
    CLUSTER_TRANSFER_LEADER = "/holdfast.v1.Cluster/TransferLeader":
        TransferLeaderRequest -> TransferLeaderResponse;
    KEYSPACE_CREATE = "/holdfast.v1.Cluster/CreateKeyspace":
        CreateKeyspaceRequest -> CreateKeyspaceResponse;
    KEYSPACE_ALTER = "/holdfast.v1.Cluster/AlterKeyspace":
        AlterKeyspaceRequest -> AlterKeyspaceResponse;
    KEYSPACE_DROP = "/holdfast.v1.Cluster/DropKeyspace":
        DropKeyspaceRequest -> DropKeyspaceResponse;
}

/// The streaming calls.
pub(crate) const SCAN: &str = "/holdfast.v1.Kv/Scan";
pub(crate) const WATCH: &str = "/holdfast.v1.Kv/Watch";
pub(crate) const LEASE_KEEP_ALIVE: &str = "/holdfast.v1.Lease/KeepAlive";
pub(crate) const WATCH_MAP: &str = "/holdfast.v1.Cluster/WatchMap";
