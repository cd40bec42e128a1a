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
mod call;
mod election;
mod error;
mod http;
mod kv;
mod lease;
mod lock;
mod options;
mod recipe;
mod request;
mod watch;

use std::sync::Arc;

use holdfast_node::api::{ApiError, Gateway};
use holdfast_node::services::{Adapter, Guard};
use holdfast_wire::etcd::DESCRIPTORS;
use holdfast_wire::etcd::etcdserverpb::kv_server::KvServer;
use holdfast_wire::etcd::etcdserverpb::lease_server::LeaseServer;
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
pub use request::{delete_range, put, range, txn};

/// The etcd API on a client port.
pub fn adapter(options: &Options) -> Adapter {
    let options = Arc::new(options.clone());
    let mount = move |gateway: &Gateway, routes: Routes| {
        let limit = options.message_bytes_max();
        let service = || Service::new(gateway.clone(), options.clone());
        // The guard refuses over-long messages first, in etcd's words; tonic's own limit stands
        // behind it.
        routes
            .add_service(guarded(KvServer::new(service()).max_decoding_message_size(limit), limit))
            .add_service(guarded(
                WatchServer::new(service()).max_decoding_message_size(limit),
                limit,
            ))
            .add_service(guarded(
                LeaseServer::new(service()).max_decoding_message_size(limit),
                limit,
            ))
            .add_service(guarded(
                LockServer::new(service()).max_decoding_message_size(limit),
                limit,
            ))
            .add_service(guarded(
                ElectionServer::new(service()).max_decoding_message_size(limit),
                limit,
            ))
    };
    Adapter { mount: Arc::new(mount), descriptors: DESCRIPTORS }
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
