//! Service `Election`: who was first in a queue leads, and says so with a value.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_kv::EventKind;
use holdfast_node::api::Header;
use holdfast_runtime::spawn;
use holdfast_wire::etcd::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse, election_server,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use crate::call::{Asked, Failure, Service};
use crate::key_value;
use crate::recipe::{Queue, Watched, delete, put};

/// Leaders that may wait for an observer to hear of them.
const LEADERS_WAITING_MAX: usize = 16;
/// A request without the leader it is about.
const NO_LEADER_KEY: &str = "\"leader\" field must be provided";
/// The caller does not lead any longer.
const NOT_LEADER: &str = "election: not leader";
/// Nobody leads.
const NO_LEADER: &str = "election: no leader";

#[async_trait]
impl election_server::Election for Service {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.run_for_office(&asked, request.into_inner()).await;
        self.recipe_done(started, result)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let ProclaimRequest { leader, value } = request.into_inner();
        let result = async {
            let leader = leader.ok_or(Failure::Recipe(NO_LEADER_KEY))?;
            let header = self.proclaim_as(&asked, &leader, value).await?;
            Ok(ProclaimResponse { header: Some(self.answers(&asked).header(&header)) })
        };
        let result = result.await;
        self.recipe_done(started, result)
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = async {
            let queue = Queue::of(self, &asked, &request.get_ref().name);
            let (header, first) = queue.first().await?;
            let first = first.ok_or(Failure::Recipe(NO_LEADER))?;
            Ok(leader_of(self, &asked, &header, first))
        };
        let result = result.await;
        self.recipe_done(started, result)
    }

    type ObserveStream = BoxStream<'static, Result<LeaderResponse, Status>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let asked = self.asked(request.metadata())?;
        let queue = Queue::of(self, &asked, &request.get_ref().name);
        let (leaders, receiver) = mpsc::channel(LEADERS_WAITING_MAX);
        let observer = Observer { service: self.clone(), asked: asked.clone(), queue, leaders };
        spawn(observer.run());
        Ok(Response::new(self.while_led(&asked, ReceiverStream::new(receiver).boxed())))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = async {
            let leader = request.into_inner().leader.ok_or(Failure::Recipe(NO_LEADER_KEY))?;
            let queue = Queue::of(self, &asked, &leader.name);
            let steps = vec![delete(&leader.key)];
            let (header, _) = queue.if_there(&leader.key, leader.rev, steps).await?;
            Ok(ResignResponse { header: Some(self.answers(&asked).header(&header)) })
        };
        let result = result.await;
        self.recipe_done(started, result)
    }
}

impl Service {
    /// Queues for the lead and waits for it; whoever stops waiting leaves the queue.
    async fn run_for_office(
        &self,
        asked: &Asked,
        request: CampaignRequest,
    ) -> Result<CampaignResponse, Failure> {
        let CampaignRequest { name, lease, value } = request;
        let queue = Queue::of(self, asked, &name);
        let lease = queue.session(lease).await?;
        let place = queue.join(lease, value.clone()).await?;
        let guard = queue.guard(&place);
        let rev = i64::try_from(place.revision.0).unwrap_or(i64::MAX);
        let leader = LeaderKey { name, key: place.key.clone(), rev, lease };
        if place.value.as_ref().is_some_and(|before| *before != value) {
            self.proclaim_as(asked, &leader, value).await?;
        }
        queue.turn(place.revision).await?;
        guard.keep();
        let header = Some(self.answers(asked).header(&place.header));
        Ok(CampaignResponse { header, leader: Some(leader) })
    }

    async fn proclaim_as(
        &self,
        asked: &Asked,
        leader: &LeaderKey,
        value: Bytes,
    ) -> Result<Header, Failure> {
        let queue = Queue::of(self, asked, &leader.name);
        let steps = vec![put(&leader.key, value, leader.lease)];
        let (header, is_leader) = queue.if_there(&leader.key, leader.rev, steps).await?;
        if is_leader { Ok(header) } else { Err(Failure::Recipe(NOT_LEADER)) }
    }
}

fn leader_of(
    service: &Service,
    asked: &Asked,
    header: &Header,
    entry: holdfast_kv::Entry,
) -> LeaderResponse {
    let header = Some(service.answers(asked).header(header));
    LeaderResponse { header, kv: Some(key_value(entry)) }
}

/// Tells who leads and what leaders say, until nobody listens.
struct Observer {
    service: Service,
    asked: Asked,
    queue: Queue,
    leaders: mpsc::Sender<Result<LeaderResponse, Status>>,
}

impl Observer {
    async fn run(self) {
        loop {
            let round = tokio::select! {
                round = self.follow_one() => round,
                () = self.leaders.closed() => return,
            };
            if let Err(failure) = round {
                // Its last word; whoever has gone does not hear it.
                let _ = self.leaders.send(Err(failure.into())).await;
                return;
            }
        }
    }

    /// Follows one leader to its end.
    async fn follow_one(&self) -> Result<(), Failure> {
        let (mut header, first) = self.queue.first().await?;
        let leader = match first {
            Some(first) => first,
            None => {
                let mut queue = self.queue.follow(Watched::All, header.revision).await?;
                loop {
                    let Some((at, event)) = queue.next().await? else { return Ok(()) };
                    if event.kind == EventKind::Put {
                        header = Header { revision: event.entry.revision, ..at };
                        break event.entry;
                    }
                }
            }
        };
        let from = holdfast_model::Revision(header.revision.0 + 1);
        let key = leader.key.clone();
        self.tell(&header, leader).await;
        let mut changes = self.queue.follow(Watched::Key(key), from).await?;
        while let Some((at, event)) = changes.next().await? {
            match event.kind {
                EventKind::Delete => break,
                EventKind::Put => self.tell(&at, event.entry).await,
            }
        }
        Ok(())
    }

    /// Whoever has gone is noticed by [`Observer::run`].
    async fn tell(&self, header: &Header, entry: holdfast_kv::Entry) {
        let leader = leader_of(&self.service, &self.asked, header, entry);
        let _ = self.leaders.send(Ok(leader)).await;
    }
}
