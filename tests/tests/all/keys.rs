//! Keys and values: what the API promises of each call.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use holdfast_client::{Compare, Error, Operation, ReadLevel, Relation};
use holdfast_tests::{refusal, shared};
use holdfast_wire::v1;

use crate::key_in_each_range;

#[test]
fn revisions_and_versions_follow_the_life_of_a_key() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let first = client.put("keys/life", "a").await?;
        ensure!(first.version == 1 && first.revision == first.create_revision, "{first:?}");
        let second = client.put("keys/life", "b").return_previous().await?;
        ensure!(second.version == 2 && second.revision > first.revision, "{second:?}");
        ensure!(second.create_revision == first.revision, "{second:?}");
        ensure!(second.previous.is_some_and(|e| e.value == "a"), "no previous entry");
        let old = client.get("keys/life").at_revision(first.revision).await?;
        ensure!(old.is_some_and(|e| e.value == "a"), "history is lost");
        ensure!(client.delete("keys/life").await?.deleted == 1, "not deleted");
        ensure!(client.delete("keys/life").await?.deleted == 0, "deleted twice");
        ensure!(client.get("keys/life").await?.is_none(), "still there");
        let third = client.put("keys/life", "c").await?;
        ensure!(third.version == 1 && third.create_revision == third.revision, "{third:?}");
        Ok(())
    });
}

#[test]
fn a_condition_that_does_not_hold_changes_nothing_and_shows_what_stands_there() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let missing = client.cas("keys/cas", "a", "b").await?;
        ensure!(!missing.applied && missing.current.is_none(), "{missing:?}");
        let put = client.put("keys/cas", "a").if_absent().await?;
        ensure!(put.applied, "{put:?}");
        let refused = client.put("keys/cas", "x").if_absent().await?;
        let current = refused.current.context("the current entry is not shown")?;
        ensure!(!refused.applied && current.value == "a", "{current:?}");
        let swapped = client.put("keys/cas", "b").if_revision(put.revision).await?;
        ensure!(swapped.applied, "{swapped:?}");
        let late = client.put("keys/cas", "c").if_revision(put.revision).await?;
        ensure!(!late.applied && late.current.is_some_and(|e| e.value == "b"), "it was written");
        let kept = client.delete("keys/cas").if_value("a").await?;
        ensure!(!kept.applied && kept.deleted == 0, "{kept:?}");
        let gone = client.delete("keys/cas").if_value("b").await?;
        ensure!(gone.applied && gone.deleted == 1, "{gone:?}");
        Ok(())
    });
}

#[test]
fn increments_add_and_refuse_what_is_no_number() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        ensure!(client.increment("keys/n", 5).await?.value == 5, "a missing key is 0");
        ensure!(client.increment("keys/n", -7).await?.value == -2, "5 − 7");
        let entry = client.get("keys/n").await?.context("missing")?;
        ensure!(entry.value == "-2", "{entry:?}");
        client.put("keys/text", "seven").await?;
        for key in ["keys/text", "keys/huge"] {
            client.put("keys/huge", i64::MAX.to_string()).await?;
            let refused = client.increment(key, 1).await;
            ensure!(matches!(refused, Err(Error::NotANumber(_))), "{key}: {refused:?}");
        }
        Ok(())
    });
}

#[test]
fn a_batch_over_all_ranges_answers_for_each_item_by_itself() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let mut batch = client.batch();
        for n in 0..1000 {
            batch = batch.put(format!("keys/batch/{n:04}"), n.to_string());
        }
        let answers = batch.await?;
        ensure!(answers.len() == 1000, "{} answers", answers.len());
        let mut ranges = BTreeSet::new();
        for answer in answers {
            let answer = answer?;
            ensure!(answer.applied, "{answer:?}");
            ranges.insert(answer.range);
        }
        ensure!(ranges.len() == 8, "a batch reached {} of 8 ranges", ranges.len());
        client.put("keys/batch/word", "x").await?;
        let mixed = client.batch().increment("keys/batch/0001", 1).increment("keys/batch/word", 1);
        let mixed = mixed.delete("keys/batch/0002").await?;
        ensure!(matches!(&mixed[0], Ok(a) if a.value == 2), "{mixed:?}");
        ensure!(matches!(&mixed[1], Err(Error::NotANumber(_))), "{mixed:?}");
        ensure!(matches!(&mixed[2], Ok(a) if a.count == 1), "{mixed:?}");
        let keys = (0..1000).map(|n| format!("keys/batch/{n:04}"));
        for (n, answer) in client.batch_get(keys).await?.into_iter().enumerate() {
            let value = answer?.entry.map(|e| String::from_utf8_lossy(&e.value).into_owned());
            let expected = match n {
                1 => Some("2".to_owned()),
                2 => None,
                n => Some(n.to_string()),
            };
            ensure!(value == expected, "{n}: {value:?}");
        }
        Ok(())
    });
}

#[test]
fn a_transaction_is_one_revision_and_all_or_nothing() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let start = client.txn().then(Operation::put("{keys}/a", "10"));
        let start = start.then(Operation::put("{keys}/b", "0")).await?;
        let both = client.batch_get(["{keys}/a", "{keys}/b"]).await?;
        for answer in both {
            let entry = answer?.entry.context("missing")?;
            ensure!(entry.revision == start.revision, "{entry:?} at {:?}", start.revision);
        }
        let transfer = || {
            let txn = client.txn().when(Compare::value("{keys}/a", Relation::Equal, "10"));
            let txn = txn.then(Operation::increment("{keys}/a", -10));
            txn.then(Operation::increment("{keys}/b", 10)).or_else(Operation::get("{keys}/b"))
        };
        let done = transfer().await?;
        ensure!(done.succeeded && done.results[1].value == 10, "{done:?}");
        let again = transfer().await?;
        ensure!(!again.succeeded && again.revision.0 == 0, "{again:?}");
        ensure!(again.results[0].entries[0].value == "10", "{again:?}");
        client.put("{keys}/word", "x").await?;
        let broken = client.txn().then(Operation::increment("{keys}/a", 1));
        let broken = broken.then(Operation::increment("{keys}/word", 1)).await;
        ensure!(matches!(broken, Err(Error::NotANumber(_))), "{broken:?}");
        let a = client.get("{keys}/a").await?.context("missing")?;
        ensure!(a.value == "0", "half of a transaction happened: {a:?}");
        let keys = key_in_each_range(&client, "keys/apart/")?;
        let apart = client.txn().then(Operation::put(keys[0].clone(), "x"));
        let apart = apart.then(Operation::put(keys[1].clone(), "x")).await;
        ensure!(apart.as_ref().is_err_and(Error::is_callers), "over two ranges: {apart:?}");
        Ok(())
    });
}

#[test]
fn a_scan_gives_every_key_once_in_order_as_of_its_first_page() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let mut batch = client.batch();
        for n in 0..500 {
            batch = batch.put(format!("keys/scan/{n:03}"), "old");
        }
        for answer in batch.await? {
            answer?;
        }
        let mut scan = client.scan("keys/scan/").page_keys(50).start()?;
        let mut found = scan.next_page().await?.context("no page")?.entries;
        // What is written now is not part of a scan that has begun.
        client.put("keys/scan/250", "new").await?;
        client.put("keys/scan/250a", "new").await?;
        client.delete("keys/scan/300").await?;
        while let Some(page) = scan.next_page().await? {
            ensure!(page.entries.len() <= 50, "a page of {} keys", page.entries.len());
            found.extend(page.entries);
        }
        let keys: Vec<_> = found.iter().map(|e| String::from_utf8_lossy(&e.key)).collect();
        let expected: Vec<_> = (0..500).map(|n| format!("keys/scan/{n:03}")).collect();
        ensure!(keys == expected, "{} keys: {keys:?}", keys.len());
        ensure!(found.iter().all(|e| e.value == "old"), "a later value was shown");
        let reverse = client.scan("keys/scan/").reverse().limit(3).keys_only().collect().await?;
        let keys: Vec<_> = reverse.iter().map(|e| String::from_utf8_lossy(&e.key)).collect();
        ensure!(keys == ["keys/scan/499", "keys/scan/498", "keys/scan/497"], "{keys:?}");
        ensure!(reverse.iter().all(|e| e.value.is_empty()), "values of a scan of keys");
        Ok(())
    });
}

#[test]
fn a_read_at_least_at_a_point_sees_what_was_written_there_on_any_replica() {
    shared(async |cluster| {
        let client = cluster.client().await?.with_read_level(ReadLevel::Follower);
        for n in 0..100 {
            let put = client.put("keys/own", n.to_string()).await?;
            let answer = client.get("keys/own").at_least(put.origin.point).send().await?;
            let value = answer.entry.context("missing")?.value;
            ensure!(value == n.to_string(), "wrote {n}, read {value:?} from {:?}", answer.origin);
        }
        Ok(())
    });
}

#[test]
fn a_fresh_enough_follower_read_is_never_older_than_asked_for() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        client.put("keys/fresh", "old").await?;
        client.put("keys/fresh", "new").await?;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        for _ in 0..12 {
            let get = client.get("keys/fresh").level(ReadLevel::Follower);
            let answer = get.max_staleness(Duration::from_secs(1)).send().await?;
            let bound = answer.staleness.context("no bound")?.bound;
            ensure!(bound <= Duration::from_secs(1), "{bound:?} is more than was asked for");
            ensure!(answer.entry.is_some_and(|e| e.value == "new"), "older than a second");
        }
        Ok(())
    });
}

#[test]
fn a_repeated_request_of_a_session_runs_once_whichever_node_it_reaches() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let key = "keys/once";
        let map = client.map();
        let range = map.lookup("", holdfast_model::position(key.as_bytes()))?.id.0;
        let client_id = Bytes::from((0..16).map(|n| n * 7).collect::<Vec<u8>>());
        let open = v1::SessionOpenRequest {
            range_id: range,
            client_id: client_id.clone(),
            ..Default::default()
        };
        cluster.rpc(1).await?.session().open(open).await?;
        let request = |delta, seq| v1::IncrementRequest {
            key: Bytes::from_static(b"keys/once"),
            delta,
            session: Some(v1::SessionTag { client_id: client_id.clone(), seq, watermark: 1 }),
            ..Default::default()
        };
        let mut revisions = BTreeSet::new();
        for i in [1, 2, 3, 1] {
            let mut kv = cluster.rpc(i).await?.kv();
            let answer = kv.increment(request(5, 1)).await?.into_inner();
            ensure!(answer.value == 5, "the increment ran again: {answer:?}");
            revisions.insert(answer.revision);
        }
        ensure!(revisions.len() == 1, "one change at several revisions: {revisions:?}");
        let mut kv = cluster.rpc(1).await?.kv();
        // The same number for something else is a broken client.
        let (_, info) = refusal(kv.increment(request(6, 1)).await)?;
        ensure!(info.code() == v1::ErrorCode::Invalid, "{info:?}");
        let mut second = request(5, 2);
        second.session =
            Some(v1::SessionTag { client_id: client_id.clone(), seq: 2, watermark: 2 });
        let answer = kv.increment(second).await?.into_inner();
        ensure!(answer.value == 10, "{answer:?}");
        // The first was settled, said the second; a copy of it that was under way comes too late.
        let (_, info) = refusal(kv.increment(request(5, 1)).await)?;
        ensure!(info.code() == v1::ErrorCode::SessionStale, "{info:?}");
        let entry = client.get(key).await?.context("missing")?;
        ensure!(entry.value == "10", "{entry:?}");
        Ok(())
    });
}
