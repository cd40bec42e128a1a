//! Service `Election`.

use holdfast_wire::etcd::etcdserverpb::LeaseGrantRequest;
use holdfast_wire::etcd::v3electionpb::election_client::ElectionClient;
use holdfast_wire::etcd::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::harness::{Running, soon};

async fn campaign(mut client: ElectionClient<Channel>, lease: i64, value: &str) -> LeaderKey {
    let request = CampaignRequest { name: "seat".into(), lease, value: value.to_owned().into() };
    soon(client.campaign(request)).await.unwrap().into_inner().leader.unwrap()
}

async fn observed(stream: &mut Streaming<LeaderResponse>) -> String {
    let answer = soon(stream.message()).await.unwrap().expect("the stream has ended");
    let header = answer.header.unwrap();
    assert!(header.member_id != 0 && header.raft_term != 0, "{header:?}");
    String::from_utf8(answer.kv.unwrap().value.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_says_so_and_hands_over_to_the_next() {
    let running = Running::start().await;
    for id in [10, 11] {
        let grant = LeaseGrantRequest { ttl: 60, id };
        soon(running.leases().await.lease_grant(grant)).await.unwrap();
    }
    let mut client = ElectionClient::new(running.channel().await);
    let seat = || LeaderRequest { name: "seat".into() };
    let nobody = soon(client.leader(seat())).await.unwrap_err();
    assert_eq!((nobody.code(), nobody.message()), (Code::Unknown, "election: no leader"));
    let mut observer = soon(client.observe(seat())).await.unwrap().into_inner();
    let first = campaign(client.clone(), 10, "one").await;
    assert_eq!((first.key.as_ref(), first.lease), (b"seat/a".as_slice(), 10));
    assert_eq!(observed(&mut observer).await, "one");
    let leader = soon(client.leader(seat())).await.unwrap().into_inner().kv.unwrap();
    assert_eq!(leader.value.as_ref(), b"one");
    let next = tokio::spawn(campaign(client.clone(), 11, "two"));
    let proclaim = ProclaimRequest { leader: Some(first.clone()), value: "one more".into() };
    soon(client.proclaim(proclaim.clone())).await.unwrap();
    assert_eq!(observed(&mut observer).await, "one more");
    let resign = ResignRequest { leader: Some(first) };
    soon(client.resign(resign)).await.unwrap();
    let second = soon(next).await.unwrap();
    assert_eq!(second.key.as_ref(), b"seat/b");
    assert_eq!(observed(&mut observer).await, "two");
    let late = soon(client.proclaim(proclaim)).await.unwrap_err();
    assert_eq!((late.code(), late.message()), (Code::Unknown, "election: not leader"));
    let (name, value) = ("seat".into(), "x".into());
    let campaign = CampaignRequest { name, lease: 4_711, value };
    let unleased = soon(client.campaign(campaign)).await.unwrap_err();
    assert_eq!(unleased.code(), Code::Unknown);
    assert_eq!(unleased.message(), "etcdserver: requested lease not found");
    let missing = soon(client.resign(ResignRequest { leader: None })).await.unwrap_err();
    assert_eq!(missing.message(), "\"leader\" field must be provided");
    running.stop().await;
}
