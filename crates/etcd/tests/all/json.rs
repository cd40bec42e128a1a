//! The API as JSON over HTTP.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{Request, Response, StatusCode};
use futures_util::StreamExt;
use holdfast_etcd::{Options, Pages};
use serde_json::{Value, json};
use tower_service::Service;

use super::harness::{Running, put, soon};

fn pages(running: &Running) -> Arc<Pages> {
    let pages = Pages::new(&Options::default());
    pages.arrived(running.node.gateway());
    pages
}

async fn post(pages: &Arc<Pages>, path: &str, body: &str) -> Response<Body> {
    let request = Request::post(path).body(Body::from(body.to_owned())).unwrap();
    soon(pages.router().call(request)).await.unwrap()
}

async fn json_of(response: Response<Body>) -> Value {
    let bytes = soon(to_bytes(response.into_body(), 1 << 20)).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

async fn line(lines: &mut BodyDataStream) -> Value {
    let line = soon(lines.next()).await.expect("the stream has ended").unwrap();
    assert_eq!(line.last(), Some(&b'\n'));
    serde_json::from_slice(&line).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_put_and_read_in_base64_and_numbers_are_text() {
    let running = Running::start().await;
    let pages = pages(&running);
    // `foo` and `bar`.
    let body = r#"{"key": "Zm9v", "value": "YmFy"}"#;
    let put = json_of(post(&pages, "/v3/kv/put", body).await).await;
    assert_eq!(put["header"]["revision"], "2", "{put}");
    let found = json_of(post(&pages, "/v3/kv/range", r#"{"key": "Zm9v"}"#).await).await;
    let expected = json!({
        "key": "Zm9v",
        "create_revision": "2",
        "mod_revision": "2",
        "version": "1",
        "value": "YmFy",
    });
    assert_eq!((&found["kvs"][0], &found["count"]), (&expected, &json!("1")));
    let txn = r#"{
        "compare": [{"result": "EQUAL", "target": "VERSION", "key": "Zm9v", "version": "1"}],
        "success": [{"request_range": {"key": "Zm9v"}}]
    }"#;
    let held = json_of(post(&pages, "/v3/kv/txn", txn).await).await;
    assert_eq!(held["succeeded"], true, "{held}");
    assert_eq!(held["responses"][0]["response_range"]["kvs"][0], expected);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_has_its_code_its_text_and_a_status_of_http() {
    let running = Running::start().await;
    let pages = pages(&running);
    let cases = [
        ("/v3/kv/put", r#"{"value": "YmFy"}"#, 400, 3, "etcdserver: key is not provided"),
        ("/v3/lease/revoke", r#"{"ID": "7"}"#, 404, 5, "etcdserver: requested lease not found"),
        ("/v3/kv/nothing", "{}", 404, 5, "Not Found"),
    ];
    for (path, body, http, code, text) in cases {
        let response = post(&pages, path, body).await;
        assert_eq!(response.status(), StatusCode::from_u16(http).unwrap(), "{path}");
        let expected = json!({ "code": code, "message": text });
        assert_eq!(json_of(response).await, expected);
    }
    let broken = post(&pages, "/v3/kv/put", "{").await;
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sends_a_line_for_each_answer() {
    let running = Running::start().await;
    let body = r#"{"create_request": {"key": "Zm9v"}}"#;
    let response = post(&pages(&running), "/v3/watch", body).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut lines = response.into_body().into_data_stream();
    let created = line(&mut lines).await;
    assert_eq!(created["result"]["created"], true, "{created}");
    put(&mut running.kv().await, "foo", "bar").await;
    let told = line(&mut lines).await;
    assert_eq!(told["result"]["events"][0]["kv"]["value"], "YmFy", "{told}");
    drop(lines);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_there_yet_is_unhealthy_and_says_so() {
    let pages = Pages::new(&Options::default());
    let request = Request::get("/health").body(Body::empty()).unwrap();
    let response = soon(pages.router().call(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let expected = json!({ "health": "false", "reason": "the node is starting" });
    assert_eq!(json_of(response).await, expected);
    let response = post(&pages, "/v3/kv/range", "{}").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}
