//! Service `Lease`: keys that live as long as somebody renews.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_model::LeaseId;
use holdfast_model::limits::{LEASE_TTL_MAX, LEASES_LISTED_MAX};
use holdfast_node::api::{
    Answer, ApiError, Lease as _, LeaseGrant, LeaseRemaining, Operation, Rank,
};
use holdfast_wire::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, lease_server,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::EtcdError;
use crate::call::{Asked, Failure, Service};

/// What a shorter time to live is raised to: one and a half election timeouts of etcd's default.
const TTL_MIN: Duration = Duration::from_secs(2);
/// Renewals of one stream that are under way together; further ones wait in the stream.
const RENEWALS_AT_ONCE_MAX: usize = 256;
/// Leases of a list.
const LISTED_MAX: usize = 1_000_000;
/// What is left of a lease that does not exist, seconds.
const NO_LEASE: i64 = -1;

#[async_trait]
impl lease_server::Lease for Service {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        let result = self.grant_lease(&asked, id, ttl).await;
        self.done(Operation::Lease, None, started, result)
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = async {
            let id = lease_id(request.get_ref().id)?;
            let answer = self.gateway.revoke(&asked.call, &asked.keyspace, id, None).await?;
            let header = Some(self.answers(&asked).header(&answer.header));
            Ok(LeaseRevokeResponse { header })
        };
        let result = result.await;
        self.done(Operation::Lease, None, started, result)
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let asked = self.asked(request.metadata())?;
        let (service, renewing) = (self.clone(), asked.clone());
        let answers = request.into_inner().map(move |request| {
            let (service, asked) = (service.clone(), renewing.clone());
            async move { service.renew_one(asked, request?.id).await }
        });
        let answers = answers.buffered(RENEWALS_AT_ONCE_MAX).boxed();
        Ok(Response::new(self.while_led(&asked, until_failed(answers))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let result = self.look_at_lease(&asked, id, keys).await;
        self.done(Operation::Lease, None, started, result)
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.list_leases(&asked).await;
        self.done(Operation::Lease, None, started, result)
    }
}

impl Service {
    pub(crate) async fn grant_lease(
        &self,
        asked: &Asked,
        id: i64,
        ttl: i64,
    ) -> Result<LeaseGrantResponse, Failure> {
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        if ttl > LEASE_TTL_MAX {
            return Err(EtcdError::LeaseTtlTooLarge.into());
        }
        let grant = LeaseGrant {
            keyspace: asked.keyspace.clone(),
            ttl_ms: u64::try_from(ttl.max(TTL_MIN).as_millis()).unwrap_or(u64::MAX),
            key: bytes::Bytes::new(),
            id: LeaseId(id.cast_unsigned()),
            session: None,
        };
        let Answer { header, value } = self.gateway.grant(&asked.call, grant).await?;
        Ok(LeaseGrantResponse {
            header: Some(self.answers(asked).header(&header)),
            id: value.id.0.cast_signed(),
            ttl: seconds(value.ttl_ms),
            error: String::new(),
        })
    }

    /// One renewal of a stream, with the deadline a unary call would have.
    async fn renew_one(&self, mut asked: Asked, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let started = self.gateway.now();
        asked.call.deadline = self.deadline_of_one();
        // Taken before the renewal: no answer says that a lease lives at a revision at which it
        // was revoked.
        let before = self.gateway.standing(&asked.keyspace).header;
        let renewed = match lease_id(id) {
            Ok(id) => self.gateway.renew(&asked.call, &asked.keyspace, id).await,
            Err(_) => Err(ApiError::LeaseNotFound),
        };
        self.gateway.finished(Operation::Lease, None, renewed.as_ref().err(), started);
        let (header, ttl) = match renewed {
            Ok(Answer { header, value: LeaseRemaining { ttl_ms: 0, .. } }) => (header, 0),
            Ok(Answer { header, value }) => (header, seconds(value.granted_ms)),
            Err(ApiError::LeaseNotFound) => (self.gateway.plain_header(), 0),
            Err(error) => return Err(crate::error_of(&error)),
        };
        let header = Some(self.answers(&asked).header(&before.unwrap_or(header)));
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }

    async fn look_at_lease(
        &self,
        asked: &Asked,
        id: i64,
        keys: bool,
    ) -> Result<LeaseTimeToLiveResponse, Failure> {
        let found = match lease_id(id) {
            Ok(lease) => self.gateway.look(&asked.call, &asked.keyspace, lease, keys).await?,
            Err(_) => {
                self.check_rank(asked, Rank::User).await?;
                Answer { header: self.header_now(asked).await?, value: None }
            }
        };
        let header = Some(self.answers(asked).header(&found.header));
        let Some(state) = found.value else {
            return Ok(LeaseTimeToLiveResponse { header, id, ttl: NO_LEASE, ..Default::default() });
        };
        let left_ms = state.expires_at_ms.saturating_sub(found.header.clock_ms);
        Ok(LeaseTimeToLiveResponse {
            header,
            id,
            ttl: seconds(left_ms),
            granted_ttl: seconds(state.ttl_ms),
            keys: state.keys,
        })
    }

    /// Every lease, the one that ends first at the front.
    async fn list_leases(&self, asked: &Asked) -> Result<LeaseLeasesResponse, Failure> {
        let mut found = Vec::new();
        let mut after = LeaseId(0);
        let header = loop {
            let part = self.gateway.leases(&asked.call, &asked.keyspace, after, LEASES_LISTED_MAX);
            let Answer { header, value } = part.await?;
            let is_last = value.len() < LEASES_LISTED_MAX;
            after = value.last().map_or(after, |lease| lease.id);
            found.extend(value.into_iter().map(|lease| (lease.expires_at_ms, lease.id)));
            if is_last || found.len() >= LISTED_MAX {
                break header;
            }
        };
        found.sort_unstable();
        let leases = found.into_iter().map(|(_, id)| LeaseStatus { id: id.0.cast_signed() });
        let header = Some(self.answers(asked).header(&header));
        Ok(LeaseLeasesResponse { header, leases: leases.collect() })
    }
}

/// The items up to the first error, which is the last one.
fn until_failed<T: Send + 'static>(
    items: BoxStream<'static, Result<T, Status>>,
) -> BoxStream<'static, Result<T, Status>> {
    items
        .scan(false, |failed, item| {
            let over = std::mem::replace(failed, item.is_err());
            std::future::ready((!over).then_some(item))
        })
        .boxed()
}

/// No lease has id 0.
fn lease_id(id: i64) -> Result<LeaseId, EtcdError> {
    match id {
        0 => Err(EtcdError::LeaseNotFound),
        id => Ok(LeaseId(id.cast_unsigned())),
    }
}

/// Whole seconds, as etcd counts lives.
fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[tokio::test]
    async fn nothing_follows_the_first_failure_of_a_stream() {
        let failed = || Err(Status::unavailable("gone"));
        let items = stream::iter([Ok(1), failed(), Ok(2), failed()]).boxed();
        let seen: Vec<_> = until_failed(items).map(|item| item.ok()).collect().await;
        assert_eq!(seen, [Some(1), None]);
    }

    #[test]
    fn lives_are_told_in_whole_seconds_and_ids_keep_their_sign() {
        assert_eq!((seconds(1_999), seconds(2_000), seconds(999)), (1, 2, 0));
        assert_eq!(lease_id(-2).map(|id| id.0), Ok(u64::MAX - 1));
        assert_eq!(lease_id(0), Err(EtcdError::LeaseNotFound));
    }
}
