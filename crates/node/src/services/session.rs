//! Service `Session`: exactly-once sessions of ranges.

use holdfast_model::RangeId;
use holdfast_wire::v1;
use tonic::{Request, Response, Status, async_trait};

use super::{Service, messages};
use crate::api::{ApiError, Operation, Session, SessionOf};
use crate::convert;

#[async_trait]
impl v1::session_server::Session for Service {
    async fn open(
        &self,
        request: Request<v1::SessionOpenRequest>,
    ) -> Result<Response<v1::SessionOpenResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::SessionOpenRequest { keyspace, range_id, client_id } = request.into_inner();
            let session = session_of(keyspace, range_id, &client_id, 0)?;
            let answer = self.gateway.open(&call?, session).await?;
            let header = Some(convert::header(&answer.header));
            Ok(v1::SessionOpenResponse { header, idle_max_ms: answer.value })
        };
        let result = result.await;
        self.done(Operation::Session, None, started, result)
    }

    async fn keep_alive(
        &self,
        request: Request<v1::SessionKeepAliveRequest>,
    ) -> Result<Response<v1::SessionKeepAliveResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let request = request.into_inner();
            let v1::SessionKeepAliveRequest { keyspace, range_id, client_id, watermark } = request;
            let session = session_of(keyspace, range_id, &client_id, watermark)?;
            let answer = Session::keep_alive(&self.gateway, &call?, session).await?;
            let header = Some(convert::header(&answer.header));
            Ok(v1::SessionKeepAliveResponse { header })
        };
        let result = result.await;
        self.done(Operation::Session, None, started, result)
    }

    async fn close(
        &self,
        request: Request<v1::SessionCloseRequest>,
    ) -> Result<Response<v1::SessionCloseResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::SessionCloseRequest { keyspace, range_id, client_id } = request.into_inner();
            let session = session_of(keyspace, range_id, &client_id, 0)?;
            let answer = self.gateway.close(&call?, session).await?;
            Ok(v1::SessionCloseResponse { header: Some(convert::header(&answer.header)) })
        };
        let result = result.await;
        self.done(Operation::Session, None, started, result)
    }
}

fn session_of(
    keyspace: String,
    range: u64,
    client: &[u8],
    watermark: u64,
) -> Result<SessionOf, ApiError> {
    let client = messages::client_id(client)?;
    Ok(SessionOf { keyspace, range: RangeId(range), client, watermark })
}
