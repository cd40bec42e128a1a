//! The etcd v3 API as a translation onto `node::api`.
//!
//! Owns: etcd's messages in both directions, the order of its checks, its error texts and codes.
//! Must never know: Raft, storage, which node has what.
//! Invariants:
//! * A text of [`EtcdError`] is etcd's to the byte: its clients look errors up by it.
//! * What etcd refuses before it proposes is refused here, in its order.
//! * A keyspace of one range is one etcd cluster: its revisions are dense and order everything.
//! Source: etcd 3.7.1, `api/v3rpc`, `etcdserver/txn`, `rpctypes`.

mod answer;
pub mod archive;
mod auth;
mod call;
mod cluster;
mod election;
mod error;
mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod options;
mod recipe;
mod request;
mod watch;

use std::sync::Arc;

use holdfast_node::api::{ApiError, Gateway};
use holdfast_node::services::{Adapter, Guard};
use holdfast_wire::etcd::DESCRIPTORS;
use holdfast_wire::etcd::etcdserverpb::auth_server::AuthServer;
use holdfast_wire::etcd::etcdserverpb::cluster_server::ClusterServer;
use holdfast_wire::etcd::etcdserverpb::kv_server::KvServer;
use holdfast_wire::etcd::etcdserverpb::lease_server::LeaseServer;
use holdfast_wire::etcd::etcdserverpb::maintenance_server::MaintenanceServer;
use holdfast_wire::etcd::etcdserverpb::watch_server::WatchServer;
use holdfast_wire::etcd::v3electionpb::election_server::ElectionServer;
use holdfast_wire::etcd::v3lockpb::lock_server::LockServer;
use tonic::Status;
use tonic::service::Routes;

pub use answer::{Answers, key_value};
pub use call::Service;
pub use error::{EtcdError, error_of};
pub use http::Pages;
pub use options::{Listen, Options};
pub use request::{delete_range, lone_range, put, range, txn};

/// The etcd API on a client port.
pub fn adapter(options: &Options) -> Adapter {
    let options = Arc::new(options.clone());
    let others = options.clone();
    Adapter {
        directly: Arc::new(move |gateway| vec![Box::new(kv(gateway, &options))]),
        mount: Arc::new(move |gateway, routes| mount(gateway, &others, routes)),
        descriptors: DESCRIPTORS,
    }
}

/// Every service, for who asks them in this process.
pub(crate) fn services(gateway: &Gateway, options: &Arc<Options>) -> Routes {
    mount(gateway, options, Routes::default().add_service(kv(gateway, options)))
}

fn kv(gateway: &Gateway, options: &Arc<Options>) -> Guard<KvServer<Service>> {
    let limit = options.message_bytes_max();
    let kv = KvServer::new(Service::new(gateway.clone(), options.clone()));
    guarded(kv.max_decoding_message_size(limit), limit)
}

/// Adds all services but that of keys. The guard refuses over-long messages first, in etcd's words;
/// tonic's own limit stands behind it.
fn mount(gateway: &Gateway, options: &Arc<Options>, routes: Routes) -> Routes {
    let limit = options.message_bytes_max();
    let service = || Service::new(gateway.clone(), options.clone());
    let watch = WatchServer::new(service()).max_decoding_message_size(limit);
    let lease = LeaseServer::new(service()).max_decoding_message_size(limit);
    let cluster = ClusterServer::new(service()).max_decoding_message_size(limit);
    let auth = AuthServer::new(service()).max_decoding_message_size(limit);
    let maintenance = MaintenanceServer::new(service()).max_decoding_message_size(limit);
    let lock = LockServer::new(service()).max_decoding_message_size(limit);
    let election = ElectionServer::new(service()).max_decoding_message_size(limit);
    routes
        .add_service(guarded(watch, limit))
        .add_service(guarded(lease, limit))
        .add_service(guarded(cluster, limit))
        .add_service(guarded(maintenance, limit))
        .add_service(guarded(auth, limit))
        .add_service(guarded(lock, limit))
        .add_service(guarded(election, limit))
}

/// A service behind the guard, in the words of etcd's transport.
fn guarded<S>(service: S, limit: usize) -> Guard<S> {
    Guard::in_words_of(too_large, service, limit)
}

/// What etcd's transport says about a message it does not take.
fn too_large(error: &ApiError) -> Status {
    match error {
        ApiError::TooLarge { limit, given, .. } => Status::resource_exhausted(format!(
            "grpc: received message larger than max ({given} vs. {limit})"
        )),
        other => error_of(other),
    }
}
