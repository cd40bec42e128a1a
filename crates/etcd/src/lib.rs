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
mod error;
mod kv;
mod request;

use std::sync::Arc;

use holdfast_model::ETCD_KEYSPACE;
use holdfast_node::api::Gateway;
use holdfast_node::services::Adapter;
use holdfast_wire::etcd::DESCRIPTORS;
use holdfast_wire::etcd::etcdserverpb::kv_server::KvServer;
use tonic::service::Routes;

pub use answer::{Answers, key_value};
pub use call::Service;
pub use error::{EtcdError, error_of};
pub use request::{delete_range, put, range, txn};

/// What can be set about the etcd API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The keyspace of calls that name none.
    pub keyspace: String,
    /// Largest request that changes something, bytes.
    pub request_bytes_max: usize,
}

impl Default for Options {
    /// Keyspace `etcd`, and requests as large as etcd's default allows.
    fn default() -> Self {
        Self { keyspace: ETCD_KEYSPACE.to_owned(), request_bytes_max: 1_536 * 1_024 }
    }
}

/// The etcd API on a node's client port.
pub fn adapter(options: &Options) -> Adapter {
    let options = Arc::new(options.clone());
    let mount = move |gateway: &Gateway, routes: Routes| {
        // Read requests may be larger than those that change something.
        let limit = gateway.limits().request_bytes_max;
        let service = Service::new(gateway.clone(), options.clone());
        routes.add_service(KvServer::new(service).max_decoding_message_size(limit))
    };
    Adapter { mount: Arc::new(mount), descriptors: DESCRIPTORS }
}
