//! Service `Lease`.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_model::LeaseId;
use holdfast_wire::v1;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Service, messages};
use crate::api::{Answer, ApiError, Call, Lease, LeaseGrant, LeaseRemaining, Operation};
use crate::convert;
use crate::router::answer_by;

/// Renewals of one stream that are under way together; further ones wait in the stream.
const RENEWALS_AT_ONCE_MAX: usize = 256;

#[async_trait]
impl v1::lease_server::Lease for Service {
    async fn grant(
        &self,
        request: Request<v1::LeaseGrantRequest>,
    ) -> Result<Response<v1::LeaseGrantResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::LeaseGrantRequest { keyspace, ttl_ms, key, lease_id, session } =
                request.into_inner();
            let session = messages::session(session)?;
            let id = LeaseId(lease_id);
            let grant = LeaseGrant { keyspace, ttl_ms, key, id, session };
            let answer = self.gateway.grant(&call?, grant).await?;
            Ok(v1::LeaseGrantResponse {
                header: Some(convert::header(&answer.header)),
                lease_id: answer.value.id.0,
                ttl_ms: answer.value.ttl_ms,
            })
        };
        let result = result.await;
        self.done(Operation::Lease, None, started, result)
    }

    type KeepAliveStream = BoxStream<'static, Result<v1::LeaseKeepAliveResponse, Status>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let call = self.call(&request, false).map_err(|error| error.status())?;
        let service = self.clone();
        let answers = request.into_inner().map(move |asked| {
            let (service, call) = (service.clone(), call.clone());
            async move {
                match asked {
                    Ok(asked) => Ok(service.renew_one(call, asked).await),
                    Err(status) => Err(status),
                }
            }
        });
        Ok(Response::new(answers.buffered(RENEWALS_AT_ONCE_MAX).boxed()))
    }

    async fn revoke(
        &self,
        request: Request<v1::LeaseRevokeRequest>,
    ) -> Result<Response<v1::LeaseRevokeResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::LeaseRevokeRequest { keyspace, lease_id, session } = request.into_inner();
            let (id, session) = (lease(lease_id)?, messages::session(session)?);
            let answer = self.gateway.revoke(&call?, &keyspace, id, session).await?;
            let header = Some(convert::header(&answer.header));
            Ok(v1::LeaseRevokeResponse { header, deleted: answer.value.keys_removed })
        };
        let result = result.await;
        self.done(Operation::Lease, None, started, result)
    }

    async fn time_to_live(
        &self,
        request: Request<v1::LeaseTimeToLiveRequest>,
    ) -> Result<Response<v1::LeaseTimeToLiveResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::LeaseTimeToLiveRequest { keyspace, lease_id, keys } = request.into_inner();
            let id = lease(lease_id)?;
            let Answer { header, value } = self.gateway.look(&call?, &keyspace, id, keys).await?;
            let wire_header = Some(convert::header(&header));
            let Some(state) = value else {
                return Ok(v1::LeaseTimeToLiveResponse {
                    header: wire_header,
                    ..Default::default()
                });
            };
            Ok(v1::LeaseTimeToLiveResponse {
                header: wire_header,
                found: true,
                granted_ttl_ms: state.ttl_ms,
                remaining_ttl_ms: state.expires_at_ms.saturating_sub(header.clock_ms),
                keys: state.keys,
            })
        };
        let result = result.await;
        self.done(Operation::Lease, None, started, result)
    }
}

impl Service {
    /// One renewal of a stream, with the deadline a unary call would have.
    async fn renew_one(
        &self,
        mut call: Call,
        asked: v1::LeaseKeepAliveRequest,
    ) -> v1::LeaseKeepAliveResponse {
        let started = self.gateway.now();
        call.deadline = answer_by(self.gateway.limits().deadline(None));
        let result = match lease(asked.lease_id) {
            Ok(id) => self.gateway.renew(&call, &asked.keyspace, id).await,
            Err(error) => Err(error),
        };
        self.gateway.finished(Operation::Lease, None, result.as_ref().err(), started);
        let lease_id = asked.lease_id;
        match result {
            Ok(Answer { header, value: LeaseRemaining { ttl_ms, .. } }) => {
                let header = Some(convert::header(&header));
                v1::LeaseKeepAliveResponse { header, lease_id, ttl_ms, error: None }
            }
            Err(ApiError::LeaseNotFound) => {
                v1::LeaseKeepAliveResponse { lease_id, ..Default::default() }
            }
            Err(error) => {
                let error = Some(error.info());
                v1::LeaseKeepAliveResponse { lease_id, error, ..Default::default() }
            }
        }
    }
}

fn lease(id: u64) -> Result<LeaseId, ApiError> {
    match id {
        0 => Err(ApiError::Invalid("lease id: at least 1, given 0".into())),
        id => Ok(LeaseId(id)),
    }
}
