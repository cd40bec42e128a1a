//! What balancers and tools ask before they use a service.

use std::collections::BTreeSet;

use super::harness::{Running, soon};
use axum::http::uri::PathAndQuery;
use futures_util::stream;
use holdfast_wire::Codec;
use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const SERVICES: [&str; 8] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
];

/// `grpc.reflection.v1.ServerReflectionRequest`, as far as it is asked here.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, optional, tag = "7")]
    list_services: Option<String>,
}

/// `grpc.reflection.v1.ServerReflectionResponse`, likewise.
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(message, optional, tag = "6")]
    listed: Option<Listed>,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(message, repeated, tag = "1")]
    services: Vec<Listing>,
}

#[derive(Clone, PartialEq, Message)]
struct Listing {
    #[prost(string, tag = "1")]
    name: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_is_known_to_be_healthy_and_is_listed() {
    let running = Running::start().await;
    let mut health = HealthClient::new(running.channel().await);
    for service in SERVICES.into_iter().chain(["", "holdfast.v1.Kv"]) {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = soon(health.check(request)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "etcdserverpb.Nothing".to_owned() };
    assert!(soon(health.check(unknown)).await.is_err());
    let mut reflection = Grpc::new(running.channel().await);
    soon(reflection.ready()).await.unwrap();
    let asked = Request::new(stream::iter([Asked { list_services: Some(String::new()) }]));
    let codec: Codec<Asked, Told> = Codec::default();
    let path =
        PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let answers = soon(reflection.streaming(asked, path, codec)).await.unwrap();
    let told = soon(answers.into_inner().message()).await.unwrap().unwrap();
    let listed: BTreeSet<String> =
        told.listed.unwrap().services.into_iter().map(|one| one.name).collect();
    for service in SERVICES {
        assert!(listed.contains(service), "{service} of {listed:?}");
    }
    running.stop().await;
}
