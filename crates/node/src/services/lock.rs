//! Service `Lock`.

use bytes::Bytes;
use holdfast_kv as kv;
use holdfast_wire::v1;
use tonic::{Request, Response, Status, async_trait};

use super::{Service, messages};
use crate::api::{
    Answer, ApiError, Header, Lock, LockAcquire, LockKeepAlive, LockName, LockRelease, Operation,
};
use crate::convert;

/// Bytes of an owner's identity.
const OWNER_BYTES: usize = 16;

#[async_trait]
impl v1::lock_server::Lock for Service {
    async fn acquire(
        &self,
        request: Request<v1::LockAcquireRequest>,
    ) -> Result<Response<v1::LockAcquireResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let request = request.into_inner();
            let acquire = LockAcquire {
                lock: lock_name(request.keyspace, request.name, request.owner)?,
                ttl_ms: request.ttl_ms,
                wait: request.wait,
                value: request.value,
            };
            let Answer { header, value } = self.gateway.acquire(&call?, acquire).await?;
            Ok(v1::LockAcquireResponse {
                header: Some(convert::header(&header)),
                acquired: value.token != 0,
                fencing_token: value.token,
                state: Some(state(value.state, &header)),
            })
        };
        let result = result.await;
        self.done(Operation::Lock, None, started, result)
    }

    async fn keep_alive(
        &self,
        request: Request<v1::LockKeepAliveRequest>,
    ) -> Result<Response<v1::LockKeepAliveResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::LockKeepAliveRequest { keyspace, name, owner, fencing_token } =
                request.into_inner();
            let lock = lock_name(keyspace, name, owner)?;
            let keep = LockKeepAlive { lock, token: fencing_token };
            let answer = Lock::keep_alive(&self.gateway, &call?, keep).await?;
            let header = Some(convert::header(&answer.header));
            Ok(v1::LockKeepAliveResponse { header, ttl_ms: answer.value })
        };
        let result = result.await;
        self.done(Operation::Lock, None, started, result)
    }

    async fn release(
        &self,
        request: Request<v1::LockReleaseRequest>,
    ) -> Result<Response<v1::LockReleaseResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::LockReleaseRequest { keyspace, name, owner, fencing_token } =
                request.into_inner();
            let lock = lock_name(keyspace, name, owner)?;
            let release = LockRelease { lock, token: fencing_token };
            let answer = self.gateway.release(&call?, release).await?;
            let header = Some(convert::header(&answer.header));
            Ok(v1::LockReleaseResponse { header, released: answer.value })
        };
        let result = result.await;
        self.done(Operation::Lock, None, started, result)
    }

    async fn inspect(
        &self,
        request: Request<v1::LockInspectRequest>,
    ) -> Result<Response<v1::LockInspectResponse>, Status> {
        let started = self.gateway.now();
        let call = self.call(&request, false);
        let result = async {
            let v1::LockInspectRequest { keyspace, name, read } = request.into_inner();
            let read = messages::read_options(read)?;
            let Answer { header, value } =
                self.gateway.inspect(&call?, &keyspace, name, read).await?;
            Ok(v1::LockInspectResponse {
                header: Some(convert::header(&header)),
                state: Some(state(value, &header)),
            })
        };
        let result = result.await;
        self.done(Operation::Lock, None, started, result)
    }
}

fn lock_name(keyspace: String, name: Bytes, owner: Bytes) -> Result<LockName, ApiError> {
    if owner.len() != OWNER_BYTES {
        let text = format!("owner of a lock: {OWNER_BYTES} bytes, given {}", owner.len());
        return Err(ApiError::Invalid(text));
    }
    Ok(LockName { keyspace, name, owner })
}

fn state(state: kv::LockState, header: &Header) -> v1::LockState {
    v1::LockState {
        held: state.is_held(),
        owner: state.owner,
        fencing_token: state.token.0,
        remaining_ttl_ms: state.expires_at_ms.saturating_sub(header.clock_ms),
        value: state.value,
        waiters: state.waiters,
    }
}
