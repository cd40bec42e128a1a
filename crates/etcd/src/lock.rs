//! Service `Lock`: mutual exclusion by the order in which keys were created.

use bytes::Bytes;
use holdfast_wire::etcd::etcdserverpb::DeleteRangeRequest;
use holdfast_wire::etcd::v3lockpb::{
    LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server,
};
use tonic::{Request, Response, Status, async_trait};

use crate::call::{Asked, Failure, Service};
use crate::recipe::Queue;
use crate::request;

/// The lease ended while its owner waited.
const SESSION_EXPIRED: &str = "mutex: session is expired";

#[async_trait]
impl lock_server::Lock for Service {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let LockRequest { name, lease } = request.into_inner();
        let result = self.take_lock(&asked, name, lease).await;
        self.recipe_done(started, result)
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let key = request.into_inner().key;
        let delete = DeleteRangeRequest { key, ..Default::default() };
        let result = match request::delete_range(delete) {
            Ok(delete) => self.write(&asked, delete).await,
            Err(error) => Err(error.into()),
        };
        let result = result.map(|(header, _)| {
            let header = Some(self.answers(&asked).header(&header));
            UnlockResponse { header }
        });
        self.recipe_done(started, result)
    }
}

impl Service {
    /// Queues for a lock and waits for it; whoever stops waiting leaves the queue.
    async fn take_lock(
        &self,
        asked: &Asked,
        name: Bytes,
        lease: i64,
    ) -> Result<LockResponse, Failure> {
        let queue = Queue::of(self, asked, &name);
        let lease = queue.session(lease).await?;
        let place = queue.join(lease, Bytes::new()).await?;
        let is_first = |first: &holdfast_kv::Entry| first.create_revision == place.revision;
        let mut header = place.header;
        if !place.first.as_ref().is_none_or(is_first) {
            let guard = queue.guard(&place);
            queue.turn(place.revision).await?;
            let (held, own) = queue.get(place.key.clone()).await?;
            if own.is_none() {
                guard.keep();
                return Err(Failure::Recipe(SESSION_EXPIRED));
            }
            guard.keep();
            header = held;
        }
        let header = Some(self.answers(asked).header(&header));
        Ok(LockResponse { header, key: place.key })
    }
}
