//! The public gRPC API `holdfast.v1` as a translation onto [`crate::api`].
//!
//! Owns: the tonic services, reading of deadlines and identities, conversion of messages.
//! Must never know: ranges, replicas, where anything is.
//! Invariants:
//! * Every answer carries a header, every error a typed detail.
//! * What cannot be decoded, or is too long, is INVALID_ARGUMENT, whatever the library would say.
//! * Keys and values are slices of the request's frame, never copies.

mod call;
mod cluster;
mod guard;
mod kv;
mod lease;
mod lock;
mod messages;
mod port;
mod session;
mod watch;

use std::sync::Arc;

use futures_util::FutureExt;
use holdfast_wire::v1;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::service::Routes;
use tonic_health::ServingStatus;

use crate::api::ApiError;
use crate::router::Gateway;
pub use call::{identity, timeout};
pub use guard::{Guard, Guarded, Wording};
pub use port::{Direct, Port};

/// Adds services of a gateway to the others.
pub type Mount = Arc<dyn Fn(&Gateway, Routes) -> Routes + Send + Sync>;

/// Makes services of a gateway that are asked without the general router.
pub type Directly = Arc<dyn Fn(&Gateway) -> Vec<Box<dyn Direct>> + Send + Sync>;

/// Services of another protocol on the client port, beside our own.
#[derive(Clone)]
pub struct Adapter {
    /// Makes those that are asked most; called once for every reactor.
    pub directly: Directly,
    /// Adds the others; likewise.
    pub mount: Mount,
    /// Their descriptors, for the reflection service.
    pub descriptors: &'static [u8],
}

/// One more client port, with its own adapters.
#[derive(Clone)]
pub struct Door {
    /// The configuration key it comes from, for messages.
    pub key: &'static str,
    /// Where it listens, `ip:port`.
    pub address: String,
    /// What is served there beside `holdfast.v1`.
    pub adapters: Vec<Adapter>,
}

/// The services of the client port: `holdfast.v1`, those of `adapters`, reflection and health.
///
/// Health answers SERVING for the process and for each of the services; whether the node is ready
/// is `Cluster.Status`, so that an empty node can be founded through a balancer that looks at
/// health.
///
/// # Errors
/// The descriptors compiled into the binary cannot be read: a defect of the build.
pub fn port(gateway: &Gateway, adapters: &[Adapter]) -> Result<Port, ApiError> {
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS);
    for adapter in adapters {
        reflection = reflection.register_encoded_file_descriptor_set(adapter.descriptors);
    }
    let reflection = reflection
        .build_v1()
        .map_err(|error| ApiError::Internal(format!("descriptors of the API: {error}")))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let described = std::iter::once(v1::DESCRIPTORS).chain(adapters.iter().map(|a| a.descriptors));
    for service in described.flat_map(services_of) {
        // Nobody else holds the reporter yet, so this does not wait.
        reporter.set_service_status(service, ServingStatus::Serving).now_or_never();
    }
    let limit = gateway.limits().request_bytes_max;
    let service = || Service { gateway: gateway.clone() };
    // The guard refuses over-long messages first, with a better error; tonic's own limit stands
    // behind it.
    let kv = v1::kv_server::KvServer::new(service()).max_decoding_message_size(limit);
    let routes = Routes::default()
        .add_service(Guard::new(
            v1::session_server::SessionServer::new(service()).max_decoding_message_size(limit),
            limit,
        ))
        .add_service(Guard::new(
            v1::lease_server::LeaseServer::new(service()).max_decoding_message_size(limit),
            limit,
        ))
        .add_service(Guard::new(
            v1::lock_server::LockServer::new(service()).max_decoding_message_size(limit),
            limit,
        ))
        .add_service(Guard::new(
            v1::cluster_server::ClusterServer::new(service()).max_decoding_message_size(limit),
            limit,
        ));
    let routes = adapters.iter().fold(routes, |routes, one| (one.mount)(gateway, routes));
    let others = routes.add_service(reflection).add_service(health);
    let direct = adapters.iter().flat_map(|one| (one.directly)(gateway)).collect();
    Ok(Port::new(Guard::new(kv, limit), direct, others))
}

/// The names of the services that descriptors describe.
fn services_of(descriptors: &[u8]) -> Vec<String> {
    let set = FileDescriptorSet::decode(descriptors).unwrap_or_default();
    let of_file = |file: &FileDescriptorProto| {
        let package = file.package().to_owned();
        let names = file.service.iter().map(move |one| format!("{package}.{}", one.name()));
        names.collect::<Vec<_>>()
    };
    set.file.iter().flat_map(of_file).collect()
}

/// Every service of the API, on one gateway.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    gateway: Gateway,
}
