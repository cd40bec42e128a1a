//! Scans over one and over all ranges.

use bytes::Bytes;
use holdfast_wire::v1::{self, ErrorCode};
use tonic::Code;

use super::harness::{Kv, Running, put, refused};

async fn pages(kv: &mut Kv, request: v1::ScanRequest) -> Vec<v1::ScanResponse> {
    let mut stream = kv.scan(request).await.unwrap().into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        pages.push(page);
    }
    pages
}

async fn keys(kv: &mut Kv, request: v1::ScanRequest) -> Vec<Bytes> {
    let pages = pages(kv, request).await;
    pages.into_iter().flat_map(|page| page.entries).map(|entry| entry.key).collect()
}

fn key(index: usize) -> Bytes {
    format!("key-{index:04}").into()
}

async fn filled(count: usize) -> (Running, Kv) {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    for index in 0..count {
        kv.put(put(key(index), format!("value-{index}"))).await.unwrap();
    }
    kv.put(put("other", "x")).await.unwrap();
    (running, kv)
}

fn prefix() -> v1::ScanRequest {
    v1::ScanRequest { prefix: "key-".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_over_all_ranges_is_ordered_whole_and_paged_in_both_directions() {
    let (running, mut kv) = filled(300).await;
    let expected: Vec<Bytes> = (0..300).map(key).collect();
    let request = v1::ScanRequest { page_keys: 7, ..prefix() };
    let found = pages(&mut kv, request.clone()).await;
    assert!(found.iter().all(|page| page.entries.len() <= 7));
    assert_eq!(found[0].points.len(), 8);
    assert!(found[1].points.is_empty() && found.last().unwrap().resume_token.is_empty());
    assert_eq!(keys(&mut kv, request.clone()).await, expected);
    let reverse = v1::ScanRequest { reverse: true, ..request };
    let backwards: Vec<Bytes> = expected.iter().rev().cloned().collect();
    assert_eq!(keys(&mut kv, reverse).await, backwards);
    let middle =
        v1::ScanRequest { start: key(100), end: key(110), keys_only: true, ..Default::default() };
    assert_eq!(keys(&mut kv, middle).await, expected[100..110]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_scan_goes_on_at_the_pinned_points_without_gap_or_double() {
    for reverse in [false, true] {
        let (running, mut kv) = filled(100).await;
        let request = v1::ScanRequest { page_keys: 30, limit: 30, reverse, ..prefix() };
        let first = pages(&mut kv, request.clone()).await.remove(0);
        assert_eq!(first.entries.len(), 30);
        // What changes after the first page is not part of the scan.
        kv.put(put("key-0050x", "later")).await.unwrap();
        for index in [20, 55, 80] {
            kv.put(put(key(index), "later")).await.unwrap();
        }
        let rest = v1::ScanRequest { resume_token: first.resume_token, limit: 0, ..request };
        let rest = pages(&mut kv, rest).await.into_iter().flat_map(|page| page.entries);
        let all: Vec<v1::Entry> = first.entries.into_iter().chain(rest).collect();
        let mut expected: Vec<Bytes> = (0..100).map(key).collect();
        if reverse {
            expected.reverse();
        }
        assert_eq!(all.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), expected);
        assert!(all.iter().all(|entry| entry.value != "later"), "reverse {reverse}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_scan_or_a_changed_one_is_refused() {
    let (running, mut kv) = filled(20).await;
    let request = v1::ScanRequest { page_keys: 5, limit: 5, ..prefix() };
    let token = pages(&mut kv, request.clone()).await.remove(0).resume_token;
    let mut changed = token.to_vec();
    changed[20] ^= 1;
    let other = v1::ScanRequest { prefix: "key".into(), ..request.clone() };
    let bad = [
        v1::ScanRequest { resume_token: changed.into(), ..request.clone() },
        v1::ScanRequest { resume_token: token.clone(), ..other },
        v1::ScanRequest { resume_token: token, reverse: true, ..request },
    ];
    for request in bad {
        let mut stream = kv.scan(request).await.unwrap().into_inner();
        let error = stream.message().await.unwrap_err();
        refused(&error, Code::InvalidArgument, ErrorCode::Malformed);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_large_values_stays_below_its_bytes() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    for index in 0..12 {
        kv.put(put(key(index), vec![7; 1 << 20])).await.unwrap();
    }
    let found = pages(&mut kv, prefix()).await;
    assert_eq!(found.iter().map(|page| page.entries.len()).sum::<usize>(), 12);
    for page in &found {
        let bytes: usize = page.entries.iter().map(|entry| entry.value.len()).sum();
        assert!(bytes <= 4 << 20, "{bytes}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_with_a_tag_asks_one_range() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    for index in 0..10 {
        kv.put(put(format!("{{t}}{index}"), "x")).await.unwrap();
    }
    let request = v1::ScanRequest { prefix: "{t}".into(), ..Default::default() };
    let found = pages(&mut kv, request).await;
    assert_eq!(found[0].points.len(), 1);
    assert_eq!(found[0].entries.len(), 10);
    assert_eq!(found[0].header.as_ref().unwrap().range_id, found[0].points[0].range_id);
    running.stop().await;
}
