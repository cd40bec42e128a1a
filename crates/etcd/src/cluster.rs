//! Service `Cluster`: the nodes that hold a keyspace, as members.
//!
//! Nodes come by joining and go by being removed from the whole cluster; a client of one keyspace
//! is told what to do instead of changing its members.

use holdfast_model::{ClusterMap, ReplicaRole};
use holdfast_node::api::{Cluster as _, EtcdRead, Header, Operation, Rank};
use holdfast_wire::etcd::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, cluster_server,
};
use tonic::{Request, Response, Status, async_trait};

use crate::EtcdError;
use crate::call::{Asked, Failure, Service};

/// What a client is told that wants to add a member.
const ADD_INSTEAD: &str = "etcdserver: members are nodes: start holdfastd with cluster.seeds, and \
                           it joins by itself";
/// What a client is told that wants to remove a member.
const REMOVE_INSTEAD: &str = "etcdserver: members are nodes, which hold many keyspaces: they are \
                              removed by whoever administers the cluster";
/// What a client is told that wants to change the address of a member.
const UPDATE_INSTEAD: &str = "etcdserver: members are nodes: start holdfastd with another \
                              advertise.peer, and it tells the others by itself";

#[async_trait]
impl cluster_server::Cluster for Service {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let asked = self.asked(request.metadata())?;
        let urls = &request.get_ref().peer_ur_ls;
        if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url)) {
            return Err(EtcdError::MemberBadUrls.into());
        }
        self.check_rank(&asked, Rank::Administrator).await?;
        Err(Status::failed_precondition(ADD_INSTEAD))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        self.member(&asked, request.get_ref().id)?;
        Err(Status::failed_precondition(REMOVE_INSTEAD))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        let MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        if self.member(&asked, id)?.peer_ur_ls != peer_ur_ls {
            return Err(Status::failed_precondition(UPDATE_INSTEAD));
        }
        // It is so already.
        let header = Some(self.plain_header(&asked));
        let members = self.members(&asked)?;
        Ok(Response::new(MemberUpdateResponse { header, members }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let started = self.gateway.now();
        let asked = self.asked(request.metadata())?;
        let result = self.list_members(&asked, request.get_ref().linearizable).await;
        self.done(Operation::Cluster, None, started, result)
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let asked = self.asked_by(Rank::Administrator, request.metadata()).await?;
        // A learner is made a voter by the leader as soon as it has caught up.
        match self.member(&asked, request.get_ref().id)?.is_learner {
            true => Err(EtcdError::LearnerNotReady.into()),
            false => Err(EtcdError::MemberNotLearner.into()),
        }
    }
}

impl Service {
    async fn list_members(
        &self,
        asked: &Asked,
        linearizable: bool,
    ) -> Result<MemberListResponse, Failure> {
        if linearizable {
            let nothing = EtcdRead { keyspace: asked.keyspace.clone(), ..EtcdRead::default() };
            self.gateway.etcd_read(&asked.call, nothing).await?;
        }
        self.check_rank(asked, Rank::User).await?;
        let header = Some(self.plain_header(asked));
        Ok(MemberListResponse { header, members: self.members(asked)? })
    }

    /// The nodes that hold the keyspace, by id.
    pub(crate) fn members(&self, asked: &Asked) -> Result<Vec<Member>, Failure> {
        Ok(members_of(&*self.gateway.map(&asked.call)?, &asked.keyspace))
    }

    fn member(&self, asked: &Asked, id: u64) -> Result<Member, Status> {
        let found = self.members(asked)?.into_iter().find(|member| member.id == id);
        Ok(found.ok_or(EtcdError::MemberNotFound)?)
    }

    /// The header of an answer that is not about keys: it tells no revision.
    pub(crate) fn plain_header(
        &self,
        asked: &Asked,
    ) -> holdfast_wire::etcd::etcdserverpb::ResponseHeader {
        let header = self.gateway.standing(&asked.keyspace).header;
        let header = header.unwrap_or_else(|| self.gateway.plain_header());
        let header = Header { revision: Default::default(), ..header };
        self.answers(asked).header(&header)
    }
}

/// Whether a URL is one that etcd takes for a peer: a scheme it knows, host and port, no path.
fn is_peer_url(url: &str) -> bool {
    let Some((scheme, place)) = url.split_once("://") else { return false };
    match scheme {
        "unix" | "unixs" => !place.is_empty(),
        "http" | "https" => place.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        }),
        _ => false,
    }
}

fn members_of(map: &ClusterMap, keyspace: &str) -> Vec<Member> {
    let ranges = map.ranges_of(keyspace).unwrap_or_default();
    let Some(range) = ranges.first() else { return Vec::new() };
    let mut members: Vec<Member> = range
        .replicas
        .iter()
        .filter_map(|replica| {
            let node = map.nodes.get(&replica.node)?;
            Some(Member {
                id: node.id.0,
                name: format!("node-{}", node.id.0),
                peer_ur_ls: vec![format!("http://{}", node.peer_address)],
                client_ur_ls: vec![format!("http://{}", node.client_address)],
                is_learner: replica.role == ReplicaRole::Learner,
            })
        })
        .collect();
    members.sort_unstable_by_key(|member| member.id);
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_scheme_a_host_and_a_port_and_no_path() {
        for url in ["http://h:1", "https://[::1]:2380", "unix://a.sock"] {
            assert!(is_peer_url(url), "{url}");
        }
        for url in ["", "h:1", "http://h", "http://h:x", "http://h:1/p", "ftp://h:1", "http://:1"] {
            assert!(!is_peer_url(url), "{url}");
        }
    }
}
