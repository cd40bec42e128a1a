//! Service `Cluster`.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_model::ClusterMap;
use holdfast_wire::v1;
use tonic::{Request, Response, Status, async_trait};

use super::Service;
use crate::api::{ApiError, Call, Cluster, Operation, Reply};

#[async_trait]
impl v1::cluster_server::Cluster for Service {
    async fn init(
        &self,
        request: Request<v1::InitRequest>,
    ) -> Result<Response<v1::InitResponse>, Status> {
        self.administer(request, |gateway, call, asked| Cluster::init(gateway, call, asked)).await
    }

    async fn map(
        &self,
        request: Request<v1::MapRequest>,
    ) -> Result<Response<v1::MapResponse>, Status> {
        let started = self.gateway.now();
        let result = self.call(&request, false).and_then(|call| self.gateway.map(&call));
        let result = result.map(|map| self.map_message(&map));
        self.done(Operation::Cluster, None, started, result)
    }

    type WatchMapStream = BoxStream<'static, Result<v1::MapResponse, Status>>;

    async fn watch_map(
        &self,
        request: Request<v1::MapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let call = self.call(&request, false).map_err(|error| error.status())?;
        let service = self.clone();
        let maps = self.gateway.watch_map(&call).map(move |map| match map {
            Ok(map) => Ok(service.map_message(&map)),
            Err(error) => Err(error.status()),
        });
        Ok(Response::new(maps.boxed()))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = call.and_then(|call| Cluster::status(&self.gateway, &call));
        self.done(Operation::Cluster, None, started, result)
    }

    async fn state_hash(
        &self,
        request: Request<v1::StateHashRequest>,
    ) -> Result<Response<v1::StateHashResponse>, Status> {
        self.administer(request, |gateway, call, asked| Cluster::state_hash(gateway, call, asked))
            .await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        self.administer(request, |gateway, call, asked| {
            Cluster::transfer_leader(gateway, call, asked)
        })
        .await
    }

    async fn create_keyspace(
        &self,
        request: Request<v1::CreateKeyspaceRequest>,
    ) -> Result<Response<v1::CreateKeyspaceResponse>, Status> {
        self.administer(request, |gateway, call, asked| {
            Cluster::create_keyspace(gateway, call, asked)
        })
        .await
    }

    async fn alter_keyspace(
        &self,
        request: Request<v1::AlterKeyspaceRequest>,
    ) -> Result<Response<v1::AlterKeyspaceResponse>, Status> {
        self.administer(request, |gateway, call, asked| {
            Cluster::alter_keyspace(gateway, call, asked)
        })
        .await
    }

    async fn drop_keyspace(
        &self,
        request: Request<v1::DropKeyspaceRequest>,
    ) -> Result<Response<v1::DropKeyspaceResponse>, Status> {
        self.administer(request, |gateway, call, asked| {
            Cluster::drop_keyspace(gateway, call, asked)
        })
        .await
    }
}

impl Service {
    /// One administrative call from message to answer.
    async fn administer<A, B>(
        &self,
        request: Request<A>,
        serve: impl for<'a> FnOnce(&'a crate::router::Gateway, &'a Call, A) -> Reply<'a, B>,
    ) -> Result<Response<B>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result: Result<B, ApiError> = match call {
            Ok(call) => serve(&self.gateway, &call, request.into_inner()).await,
            Err(error) => Err(error),
        };
        self.done(Operation::Cluster, None, started, result)
    }

    fn map_message(&self, map: &Arc<ClusterMap>) -> v1::MapResponse {
        v1::MapResponse { node_id: self.gateway.node().0, ..v1::MapResponse::from(map.as_ref()) }
    }
}
