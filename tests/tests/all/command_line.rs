//! `holdfast`, as scripts use it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{Cli, Finished, Options, Running, scenario, shared};
use serde_json::Value;

/// The one JSON document on standard output.
fn json(finished: &Finished) -> Result<Value> {
    serde_json::from_slice(&finished.stdout).with_context(|| format!("{finished:?}"))
}

#[test]
fn what_succeeds_ends_with_0_and_prints_the_answer() {
    shared(async |cluster| {
        let cli = cluster.cli();
        cli.run("put cli/k v1")?.expect_code(0)?;
        let got = cli.run("get cli/k")?.expect_code(0)?;
        ensure!(got.stdout == b"v1\n", "{got:?}");
        cli.run("cas cli/k v1 v2")?.expect_code(0)?;
        let raw = cli.run("-o raw get cli/k")?.expect_code(0)?;
        ensure!(raw.stdout == b"v2" && raw.stderr.is_empty(), "{raw:?}");
        let document = json(&cli.run("-o json get cli/k")?.expect_code(0)?)?;
        ensure!(document["key"] == "cli/k" && document["value"] == "v2", "{document}");
        ensure!(document["version"] == 2 && document["revision"].is_u64(), "{document}");
        let sum = cli.run("-o raw incr cli/n 40")?.expect_code(0)?;
        ensure!(sum.stdout == b"40", "{sum:?}");
        let sum = cli.run("incr cli/n -3")?.expect_code(0)?;
        ensure!(sum.stdout == b"37\n", "{sum:?}");
        cli.run("mset cli/m/a=1 cli/m/b=2=3 cli/m/c=")?.expect_code(0)?;
        let pairs: Vec<_> = (0..1_001).map(|n| format!("cli/many/{n}=x")).collect();
        let many = cli.run(&format!("mset {}", pairs.join(" ")))?.expect_code(2)?;
        ensure!(many.stderr.contains("at most 1000, given 1001"), "{many:?}");
        cli.run("get cli/many/0")?.expect_code(1)?;
        let keys = cli.run("scan cli/m/ --keys-only")?.expect_code(0)?;
        ensure!(keys.stdout == b"cli/m/a\ncli/m/b\ncli/m/c\n", "{keys:?}");
        let values = cli.run("mget cli/m/b cli/m/a")?.expect_code(0)?;
        ensure!(values.stdout == b"cli/m/b\t2=3\ncli/m/a\t1\n", "{values:?}");
        let deleted = cli.run("-o json del --prefix cli/m/")?.expect_code(0)?;
        ensure!(json(&deleted)?["deleted"] == 3, "{deleted:?}");
        cli.run("del cli/never-was")?.expect_code(0)?;
        Ok(())
    });
}

#[test]
fn exact_bytes_go_in_by_standard_input_and_come_out_raw() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let bytes: Vec<u8> = (0..=255).chain([10, 0, 13, 10]).collect();
        cli.run_with("put cli/bytes -", &bytes)?.expect_code(0)?;
        let raw = cli.run("-o raw get cli/bytes")?.expect_code(0)?;
        ensure!(raw.stdout == bytes, "{} bytes came back changed", raw.stdout.len());
        let document = json(&cli.run("-o json get cli/bytes")?.expect_code(0)?)?;
        ensure!(document["value_base64"].is_string(), "{document}");
        Ok(())
    });
}

#[test]
fn when_the_answer_is_no_the_exit_code_is_1_and_standard_output_is_empty() {
    shared(async |cluster| {
        let cli = cluster.cli();
        cli.run("put cli/no v2")?.expect_code(0)?;
        let refused = cli.run("cas cli/no v1 v3")?.expect_code(1)?;
        ensure!(refused.stdout.is_empty() && refused.stderr.contains("v2"), "{refused:?}");
        for line in [
            "get cli/missing",
            "-o raw get cli/missing",
            "put cli/no v3 --if-absent",
            "put cli/no v3 --if-revision 1",
            "put cli/missing v3 --if-value v2",
            "del cli/no --if-revision 1",
            "mget cli/missing",
        ] {
            let refused = cli.run(line)?.expect_code(1)?;
            ensure!(refused.stdout.is_empty(), "{line}: {refused:?}");
        }
        let kept = cli.run("-o raw get cli/no")?.expect_code(0)?;
        ensure!(kept.stdout == b"v2", "{kept:?}");
        Ok(())
    });
}

#[test]
fn usage_and_refused_input_end_with_2() {
    shared(async |cluster| {
        let cli = cluster.cli();
        for line in [
            "put cli/only-a-key",
            "conjure",
            "get cli/k --read sometimes",
            "get cli/k --max-staleness 1s",
            "get cli/k --revision 1000000000",
            "lock cli/k --permits 0 -- true",
            "load no-such-file.tsv",
            "cluster transfer 1000000",
            "keyspace drop default --yes",
            "put cli/k v --ttl 2",
            "put cli/k v --ttl 0s",
            "--keyspace no-such-keyspace put cli/k v",
            "--timeout 2h get cli/k",
            "keyspace create Capital",
            "keyspace create three --ranges 3",
        ] {
            let refused = cli.run(line)?;
            let words = refused.stderr.lines().count() > 0 && refused.stdout.is_empty();
            ensure!(refused.code == 2 && words, "{line}: {refused:?}");
        }
        let empty = Running::start(cli.command(["put", "", "v"]), b"")?.finish()?;
        ensure!(empty.code == 2, "an empty key: {empty:?}");
        cli.run("put cli/word seven")?.expect_code(0)?;
        let refused = cli.run("incr cli/word")?.expect_code(2)?;
        ensure!(refused.stderr.contains("number"), "{refused:?}");
        Ok(())
    });
}

#[test]
fn a_cluster_that_cannot_be_reached_ends_with_3_within_the_timeout() -> Result<()> {
    // Nobody listens on port 1.
    let cli = Cli::new(&["127.0.0.1:1".to_owned()]);
    let begun = std::time::Instant::now();
    for line in ["--timeout 1s get k", "--timeout 1s put k v", "--timeout 1s scan"] {
        cli.run(line)?.expect_code(3)?;
    }
    ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    Ok(())
}

#[test]
fn a_write_nobody_can_confirm_ends_with_4() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?;
        // A leader that has just lost its followers takes a write and cannot commit it. If it
        // notices its loss first it refuses, and nothing has happened: then once more.
        for _ in 0..10 {
            let (leader, _) = cluster.leader_of(&client, "unknown").await?;
            let others: Vec<usize> = (1..=3).filter(|i| *i != leader).collect();
            for i in &others {
                cluster.node(*i).pause()?;
            }
            // Without a session, which could not be opened either, and then nothing happens.
            let put = cluster.cli_at(leader).run("--direct --timeout 1s put unknown v");
            for i in &others {
                cluster.node(*i).resume()?;
            }
            let put = put?;
            ensure!(put.code == 3 || put.code == 4, "{put:?}");
            cluster.healthy().await?;
            if put.code == 4 {
                ensure!(put.stderr.contains("unknown") && put.stdout.is_empty(), "{put:?}");
                return Ok(());
            }
        }
        anyhow::bail!("ten writes without followers were all refused before they were proposed")
    });
}

#[test]
fn one_node_answers_itself_with_direct_and_prints_how_old_it_may_be() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        client.put("cli/direct", "v").await?;
        for i in 1..=3 {
            let cli = cluster.cli_at(i);
            let got = cli.run("--direct -o raw get cli/direct")?.expect_code(0)?;
            ensure!(got.stdout == b"v", "node {i}: {got:?}");
            let got = cli.run("--direct get cli/direct --read follower")?.expect_code(0)?;
            ensure!(got.stderr.contains("ms old"), "node {i}: {got:?}");
            let document = cli.run("--direct -o json get cli/direct --read follower")?;
            ensure!(json(&document)?["staleness_ms"].is_u64(), "node {i}: {document:?}");
            let lease = cli.run("--direct -o raw get cli/direct --read lease")?.expect_code(0)?;
            ensure!(lease.stdout == b"v", "node {i}: {lease:?}");
        }
        Ok(())
    });
}

#[test]
fn a_command_under_a_lock_gets_its_token_and_excludes_others() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let script = "echo $HOLDFAST_FENCING_TOKEN; sleep 2";
        let holder = cli.start(["lock", "cli/lock", "--", "sh", "-c", script])?;
        let client = cluster.client().await?;
        let held = holdfast_tests::eventually(Duration::from_secs(10), async || {
            ensure!(client.lock("cli/lock").inspect().await?.held, "nobody holds it");
            Ok(())
        });
        held.await?;
        let second = ["--timeout", "500ms", "lock", "cli/lock", "--", "echo", "in"];
        let second = cli.start(second)?.finish()?.expect_code(1)?;
        ensure!(second.stdout.is_empty(), "two ran at once: {second:?}");
        let first = holder.finish()?.expect_code(0)?;
        let print = "echo $HOLDFAST_FENCING_TOKEN; exit 7";
        let next = cli.start(["lock", "cli/lock", "--", "sh", "-c", print])?.finish()?;
        let next = next.expect_code(7)?;
        let token = |finished: &Finished| finished.text().trim().parse::<u64>();
        ensure!(token(&next)? > token(&first)?, "{next:?} after {first:?}");
        Ok(())
    });
}

#[test]
fn the_lock_of_a_killed_command_line_goes_to_the_next_after_its_ttl() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
        let mut holder = cli.start(["lock", "cli/dead", "--ttl", "2s", "--", "sleep", "5"])?;
        let held = holdfast_tests::eventually(Duration::from_secs(10), async || {
            let state = client.lock("cli/dead").inspect().await?;
            ensure!(state.held, "nobody holds it");
            Ok(state.fencing_token)
        });
        let token = held.await?;
        holder.kill()?;
        let next = client.lock("cli/dead").acquire().await?;
        ensure!(next.fencing_token() > token, "{} after {token}", next.fencing_token());
        Ok(())
    });
}

#[test]
fn a_transaction_script_runs_whole_or_says_why_not() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let script = b"if {cli}/a missing\nthen\nput {cli}/a 1\nput {cli}/b 2\n";
        cli.run_with("txn", script)?.expect_code(0)?;
        cli.run_with("txn", script)?.expect_code(1)?;
        let wrong = cli.run_with("txn", b"put {cli}/a")?.expect_code(2)?;
        ensure!(wrong.stderr.contains("line 1"), "{wrong:?}");
        Ok(())
    });
}

#[test]
fn a_watch_prints_changes_as_they_happen_and_ends_after_its_limit() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let put = cli.run("-o json put cli/watch/a 1")?.expect_code(0)?;
        let from = json(&put)?["revision"].to_string();
        let arguments = ["-o", "json", "watch", "cli/watch/a", "--from", &from, "--limit", "3"];
        let watch = cli.start(arguments)?;
        cli.run("put cli/watch/a 2")?.expect_code(0)?;
        cli.run("del cli/watch/a")?.expect_code(0)?;
        let told = watch.finish()?.expect_code(0)?;
        let text = told.text();
        let events: Vec<Value> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let kinds: Vec<_> = events.iter().map(|event| event["event"].clone()).collect();
        ensure!(kinds == ["put", "put", "delete"], "{text}");
        Ok(())
    });
}

#[test]
fn the_state_of_the_cluster_is_shown_for_people_and_for_programs() {
    shared(async |cluster| {
        let cli = cluster.cli();
        cli.run("cluster wait --healthy")?.expect_code(0)?;
        for line in ["cluster status", "cluster nodes", "cluster ranges", "keyspace list"] {
            let table = cli.run(line)?.expect_code(0)?;
            ensure!(table.text().lines().count() > 1, "{line}: {table:?}");
            let document = cli.run(&format!("-o json {line}"))?.expect_code(0)?;
            json(&document).with_context(|| line.to_owned())?;
        }
        let map = json(&cli.run("cluster map")?.expect_code(0)?)?;
        ensure!(map.is_object(), "{map}");
        let version = cli.run("version")?.expect_code(0)?;
        ensure!(version.text().contains("0.1.0"), "{version:?}");
        let script = cli.run("completion bash")?.expect_code(0)?;
        ensure!(script.text().contains("holdfast"), "no completion");
        Ok(())
    });
}

#[test]
fn a_keyspace_is_created_altered_listed_and_dropped() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let create =
            "-o json keyspace create cli-space --ranges 2 --history 90s --compaction tiered";
        let created = json(&cli.run(create)?.expect_code(0)?)?;
        ensure!(created["keyspace"] == "cli-space", "{created}");
        let history = || -> Result<Option<Value>> {
            let list = json(&cli.run("-o json keyspace list")?.expect_code(0)?)?;
            let mut spaces = list.as_array().into_iter().flatten();
            Ok(spaces.find(|space| space["name"] == "cli-space").map(|s| s["history"].clone()))
        };
        ensure!(history()? == Some("90s".into()), "{:?}", history()?);
        let list = json(&cli.run("-o json keyspace list")?.expect_code(0)?)?;
        let compaction = |name: &str| {
            let mut spaces = list.as_array().into_iter().flatten();
            spaces.find(|space| space["name"] == name).map(|s| s["compaction"].clone())
        };
        ensure!(compaction("cli-space") == Some("tiered".into()), "{list}");
        ensure!(compaction("default") == Some("leveled".into()), "{list}");
        cli.run("keyspace alter cli-space --history latest")?.expect_code(0)?;
        ensure!(history()? == Some("latest".into()), "{:?}", history()?);
        cli.run("--keyspace cli-space put k v")?.expect_code(0)?;
        cli.run("keyspace create cli-space")?.expect_code(2)?;
        cli.run("keyspace drop cli-space")?.expect_code(2)?;
        cli.run("keyspace drop cli-space --yes")?.expect_code(0)?;
        ensure!(history()?.is_none(), "it is still listed");
        cli.run("--keyspace cli-space put k v")?.expect_code(2)?;
        Ok(())
    });
}

#[test]
fn a_leadership_goes_to_the_node_that_is_named() {
    shared(async |cluster| {
        let cli = cluster.cli();
        for node in [1, 2, 3, 1] {
            let line = format!("-o json cluster transfer 9 --to {node}");
            let moved = json(&cli.run(&line)?.expect_code(0)?)?;
            ensure!(moved["leader"] == node, "{line}: {moved}");
        }
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let client = cluster.client().await?;
        for n in 0..20 {
            // More than a pipe holds.
            client.put(format!("cli/pipe/{n:02}"), "x".repeat(20_000)).await?;
        }
        let holdfast = cli.command([""; 0]);
        let mut shell = std::process::Command::new("bash");
        for (name, value) in holdfast.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let script = "\"$0\" scan cli/pipe/ | head -c 1 >/dev/null; echo ${PIPESTATUS[0]}";
        shell.arg("-c").arg(script).arg(holdfast.get_program());
        let finished = Running::start(shell, b"")?.finish()?.expect_code(0)?;
        ensure!(finished.text().trim() == "0", "{finished:?}");
        ensure!(finished.stderr.is_empty(), "{finished:?}");
        Ok(())
    });
}

#[test]
fn a_measurement_is_printed_and_written_as_a_page() {
    shared(async |cluster| {
        let cli = cluster.cli();
        let page = cluster.node(1).folder().join("bench.html");
        let line = "-o json bench get --clients 4 --seconds 1 --keys 50 --key-bytes 24";
        let line = format!("{line} --report {}", page.display());
        let document = json(&cli.run(&line)?.expect_code(0)?)?;
        let row = &document["rows"][0];
        ensure!(row["operations_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
        ensure!(row["errors"] == 0 && row["p999_ms"].is_f64(), "{row}");
        let page = std::fs::read_to_string(page)?;
        ensure!(page.contains("<td>get linearizable</td>"), "{page}");
        let table = cli.run("bench put --clients 4 --seconds 1 --keys 50")?.expect_code(0)?;
        ensure!(table.text().contains("p999 ms"), "{table:?}");
        Ok(())
    });
}
