//! What the Rust client `etcd-client` offers, said out loud: what is printed is compared.

use std::time::Duration;

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions,
    KeyValue, LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions, ProclaimOptions, PutOptions,
    ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchFilterType, WatchOptions,
    WatchStream,
};

const ENDPOINT: &str = "127.0.0.1:2379";

type Outcome = Result<(), Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut client = Client::connect([ENDPOINT], None).await?;
    client.delete("rust/", Some(DeleteOptions::new().with_prefix())).await?;
    keys(&mut client).await?;
    transactions(&mut client).await?;
    leases(&mut client).await?;
    watches(&mut client).await?;
    locks(&mut client).await?;
    elections(&mut client).await?;
    maintenance(&mut client).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shown(kv: &KeyValue) -> String {
    format!("{}={} v{}", text(kv.key()), text(kv.value()), kv.version())
}

fn all(kvs: &[KeyValue]) -> String {
    kvs.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The code and the words of a refusal.
fn refusal<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "no refusal".to_owned(),
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => other.to_string(),
    }
}

async fn keys(client: &mut Client) -> Outcome {
    for number in 0..5 {
        client.put(format!("rust/{number}"), number.to_string(), None).await?;
    }
    let prefix = || GetOptions::new().with_prefix();
    println!("{}", all(client.get("rust/", Some(prefix())).await?.kvs()));
    let sorted = prefix().with_sort(SortTarget::Value, SortOrder::Descend).with_limit(2);
    let answer = client.get("rust/", Some(sorted)).await?;
    println!("{} more {} of {}", all(answer.kvs()), answer.more(), answer.count());
    let range = GetOptions::new().with_range("rust/3").with_keys_only();
    println!("{}", all(client.get("rust/1", Some(range)).await?.kvs()));
    println!("{}", client.get("rust/", Some(prefix().with_count_only())).await?.count());
    let put = client.put("rust/0", "zero", Some(PutOptions::new().with_prev_key())).await?;
    println!("{:?}", put.prev_key().map(shown));
    let old = put.header().map_or(0, |header| header.revision() - 1);
    let then = GetOptions::new().with_revision(old);
    println!("{}", all(client.get("rust/0", Some(then)).await?.kvs()));
    let future = GetOptions::new().with_revision(old + 1_000_000);
    println!("{}", refusal(client.get("rust/0", Some(future)).await));
    println!("{}", refusal(client.put("", "x", None).await));
    let kept = PutOptions::new().with_ignore_value();
    println!("{}", refusal(client.put("rust/none", "", Some(kept)).await));
    let gone = DeleteOptions::new().with_range("rust/3").with_prev_key();
    let gone = client.delete("rust/1", Some(gone)).await?;
    println!("{} {}", gone.deleted(), all(gone.prev_kvs()));
    Ok(())
}

async fn transactions(client: &mut Client) -> Outcome {
    let txn = |version| {
        Txn::new()
            .when([Compare::version("rust/0", CompareOp::Equal, version)])
            .and_then([
                TxnOp::put("rust/txn", "then", None),
                TxnOp::get("rust/0", None),
                TxnOp::delete("rust/4", None),
            ])
            .or_else([TxnOp::put("rust/txn", "else", None)])
    };
    for version in [2, 7] {
        let answer = client.txn(txn(version)).await?;
        let parts = answer.op_responses().into_iter().map(|part| match part {
            TxnOpResponse::Put(_) => "put".to_owned(),
            TxnOpResponse::Get(get) => all(get.kvs()),
            TxnOpResponse::Delete(delete) => format!("deleted {}", delete.deleted()),
            TxnOpResponse::Txn(_) => "txn".to_owned(),
        });
        println!("{} {:?}", answer.succeeded(), parts.collect::<Vec<_>>());
    }
    let twice = [TxnOp::put("rust/a", "1", None), TxnOp::put("rust/a", "2", None)];
    println!("{}", refusal(client.txn(Txn::new().and_then(twice)).await));
    Ok(())
}

async fn leases(client: &mut Client) -> Outcome {
    let grant = |id| Some(LeaseGrantOptions::new().with_id(id));
    let lease = client.lease_grant(60, grant(52_001)).await?;
    println!("{} {}", lease.id(), lease.ttl());
    println!("{}", refusal(client.lease_grant(60, grant(52_001)).await));
    client.put("rust/leased", "1", Some(PutOptions::new().with_lease(lease.id()))).await?;
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let state = client.lease_time_to_live(lease.id(), keys).await?;
    let held: Vec<_> = state.keys().iter().map(|key| text(key)).collect();
    println!("{} {} {held:?}", state.granted_ttl(), state.ttl() > 50);
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await?;
    keeper.keep_alive().await?;
    println!("{:?}", answers.message().await?.map(|answer| (answer.id(), answer.ttl())));
    println!("{}", client.leases().await?.leases().iter().any(|one| one.id() == 52_001));
    client.lease_revoke(lease.id()).await?;
    println!("{}", client.get("rust/leased", None).await?.count());
    println!("{}", refusal(client.lease_revoke(lease.id()).await));
    println!("{}", client.lease_time_to_live(lease.id(), None).await?.ttl());
    Ok(())
}

/// So many events of a stream, whatever messages they come in.
async fn events(stream: &mut WatchStream, count: usize) -> Outcome {
    let mut seen = 0;
    while seen < count {
        let Some(message) = stream.message().await? else { break };
        seen += message.events().len();
        for event in message.events() {
            let kind = match event.event_type() {
                EventType::Put => "put",
                EventType::Delete => "delete",
            };
            println!("{kind} {:?} {:?}", event.kv().map(shown), event.prev_kv().map(shown));
        }
    }
    Ok(())
}

async fn watches(client: &mut Client) -> Outcome {
    let first = client.put("rust/watched/a", "1", None).await?;
    let first = first.header().map_or(0, |header| header.revision());
    client.put("rust/watched/b", "1", None).await?;
    let options = WatchOptions::new().with_prefix().with_start_revision(first).with_prev_key();
    let mut stream = client.watch("rust/watched/", Some(options)).await?;
    println!(
        "{:?}",
        stream.message().await?.map(|created| (created.watch_id(), created.created()))
    );
    client.put("rust/watched/a", "2", None).await?;
    client.delete("rust/watched/", Some(DeleteOptions::new().with_prefix())).await?;
    events(&mut stream, 5).await?;
    stream.cancel(0).await?;
    println!("{:?}", stream.message().await?.map(|ended| (ended.watch_id(), ended.canceled())));
    let filtered = WatchOptions::new().with_filters([WatchFilterType::NoPut]).with_watch_id(7);
    stream.watch("rust/watched/c", Some(filtered)).await?;
    println!(
        "{:?}",
        stream.message().await?.map(|created| (created.watch_id(), created.created()))
    );
    client.put("rust/watched/c", "1", None).await?;
    client.delete("rust/watched/c", None).await?;
    events(&mut stream, 1).await?;
    stream.request_progress().await?;
    println!("{:?}", stream.message().await?.map(|progress| progress.events().len()));
    Ok(())
}

async fn locks(client: &mut Client) -> Outcome {
    for id in [52_011, 52_012] {
        client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(id))).await?;
    }
    let with = |id| Some(LockOptions::new().with_lease(id));
    let held = client.lock("rust/lock", with(52_011)).await?;
    println!("{}", text(held.key()));
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.lock("rust/lock", with(52_012)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("{}", waiting.is_finished());
    client.unlock(held.key()).await?;
    match waiting.await {
        Ok(next) => println!("{}", text(next?.key())),
        Err(error) => println!("{error}"),
    }
    println!("{}", refusal(client.lock("rust/lock", with(4_711)).await));
    println!("{}", refusal(client.unlock("").await));
    for id in [52_011, 52_012] {
        client.lease_revoke(id).await?;
    }
    Ok(())
}

async fn elections(client: &mut Client) -> Outcome {
    client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(52_021))).await?;
    println!("{}", refusal(client.leader("rust/seat").await));
    let won = client.campaign("rust/seat", "one", 52_021).await?;
    let Some(leader) = won.leader().cloned() else { return Ok(()) };
    println!("{} {} {}", text(leader.name()), text(leader.key()), leader.lease());
    let mut observed = client.observe("rust/seat").await?;
    println!("{:?}", observed.message().await?.and_then(|answer| answer.kv().map(shown)));
    let proclaim = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("two", Some(proclaim.clone())).await?;
    println!("{:?}", observed.message().await?.and_then(|answer| answer.kv().map(shown)));
    println!("{:?}", client.leader("rust/seat").await?.kv().map(shown));
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    println!("{}", refusal(client.proclaim("three", Some(proclaim)).await));
    println!("{}", refusal(client.campaign("rust/seat", "one", 4_711).await));
    client.lease_revoke(52_021).await?;
    Ok(())
}

async fn maintenance(client: &mut Client) -> Outcome {
    let status = client.status().await?;
    println!("{} {} {}", status.version(), status.leader() != 0, status.is_learner());
    println!("{} {:?}", status.db_size() < status.db_size_quota(), status.errors());
    println!("{}", client.member_list().await?.members().is_empty());
    println!("{}", client.hash_kv(0).await?.hash() != 0);
    println!("{}", client.defragment().await?.header().is_some());
    let mut snapshot = client.snapshot().await?;
    let (mut bytes, mut left) = (0, 0);
    while let Some(part) = snapshot.message().await? {
        (bytes, left) = (bytes + part.blob().len(), part.remaining_bytes());
    }
    println!("{} {left}", bytes % 512);
    let revision = client.put("rust/old", "1", None).await?;
    let revision = revision.header().map_or(0, |header| header.revision());
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await?;
    println!("{}", refusal(client.compact(revision, None).await));
    let then = GetOptions::new().with_revision(revision - 1);
    println!("{}", refusal(client.get("rust/old", Some(then)).await));
    Ok(())
}
