//! The HTTP port.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{Cluster, Options, eventually, http_get, scenario, shared};

/// The sum of all series of the metric `name` whose labels contain `label`.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let named = series.filter(|line| {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        line.get(..end) == Some(name) && line.contains(label)
    });
    named.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn metrics(cluster: &Cluster, i: usize) -> Result<String> {
    let answer = http_get(&cluster.node(i).http, "/metrics")?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body)
}

#[test]
fn a_serving_node_is_live_and_ready() {
    shared(async |cluster| {
        for i in 1..=3 {
            for path in ["/livez", "/readyz"] {
                let answer = http_get(&cluster.node(i).http, path)?;
                ensure!(answer.status == 200, "{path} of node {i}: {answer:?}");
            }
            let unknown = http_get(&cluster.node(i).http, "/nothing-here")?;
            ensure!(unknown.status == 404, "{unknown:?}");
        }
        Ok(())
    });
}

#[test]
fn an_empty_node_is_live_and_not_ready() {
    scenario(Options::nodes(1).left_empty(), async |cluster| {
        cluster.node_mut(1).start()?;
        cluster.answers(1).await?;
        let http = cluster.node(1).http.clone();
        ensure!(http_get(&http, "/livez")?.status == 200, "not live");
        let ready = http_get(&http, "/readyz")?;
        ensure!(ready.status == 503, "{ready:?}");
        cluster.found().await?;
        let limit = Duration::from_secs(20);
        let ready = eventually(limit, async || {
            let ready = http_get(&http, "/readyz")?;
            ensure!(ready.status == 200, "{ready:?}");
            Ok(())
        });
        ready.await
    });
}

#[test]
fn metrics_count_what_is_asked_and_name_the_build() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let count = |what: &str| -> Result<f64> {
            let mut total = 0.0;
            for i in 1..=3 {
                let text = metrics(cluster, i)?;
                total += sum(&text, "holdfast_request_duration_seconds_count", what);
            }
            Ok(total)
        };
        let (puts, gets) = (count("\"put\"")?, count("\"get\"")?);
        for n in 0..20 {
            client.put(format!("metrics/{n}"), "x").await?;
            client.get(format!("metrics/{n}")).await?.context("missing")?;
        }
        let (puts, gets) = (count("\"put\"")? - puts, count("\"get\"")? - gets);
        ensure!(puts >= 20.0 && gets >= 20.0, "counted {puts} puts and {gets} gets of 20 each");
        let text = metrics(cluster, 1)?;
        ensure!(sum(&text, "holdfast_build_info", "version") > 0.0, "no holdfast_build_info");
        Ok(())
    });
}
