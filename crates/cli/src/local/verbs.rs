//! What `holdfast local …` does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_wire::v1;
use rustix::process::Signal;

use crate::admin;
use crate::args::{Local, LocalArgs};
use crate::exit::{Exit, refused};
use crate::local::layout::Layout;
use crate::local::ports;
use crate::local::process::spawn_detached;
use crate::output;

/// How long SIGTERM may take before SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long a cluster may take until every range is led and fully replicated.
const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for one answer of a node while waiting for health.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Nodes of a cluster that does not say.
const NODES_DEFAULT: u16 = 3;

fn layout(arguments: &LocalArgs) -> Result<Layout> {
    let existing = Layout::existing_nodes(&arguments.dir);
    let nodes = match (arguments.nodes, existing) {
        (Some(asked), 0) => asked,
        (Some(asked), there) if asked < there => {
            let dir = arguments.dir.display();
            return Err(refused(format!("{dir} holds {there} nodes, not {asked}")));
        }
        (Some(asked), _) => asked,
        (None, 0) => NODES_DEFAULT,
        (None, there) => there,
    };
    let mut layout = Layout::standard(&arguments.dir, nodes)?;
    layout.address.clone_from(&arguments.address);
    layout.port_base = arguments.port_base;
    layout.settings.clone_from(&arguments.settings);
    Ok(layout)
}

fn chosen(layout: &Layout, arguments: &LocalArgs) -> Result<Vec<u16>> {
    match arguments.node {
        None => Ok(layout.numbers().collect()),
        Some(node) if layout.numbers().any(|i| i == node) => Ok(vec![node]),
        Some(node) => {
            Err(refused(format!("there is no node {node}; nodes are 1 to {}", layout.nodes)))
        }
    }
}

fn one(layout: &Layout, arguments: &LocalArgs) -> Result<u16> {
    match arguments.node {
        Some(_) => Ok(chosen(layout, arguments)?.first().copied().unwrap_or(1)),
        None => Err(refused(format!("say which node: 1 to {}", layout.nodes))),
    }
}

/// Runs one verb.
///
/// # Errors
/// Usage and environment errors; the text says what to do.
pub async fn run(verb: &Local) -> Result<Exit> {
    match verb {
        Local::Start(arguments) => start(arguments).await,
        Local::Stop(arguments) => {
            let layout = layout(arguments)?;
            stop(&layout, &chosen(&layout, arguments)?);
            Ok(Exit::Done)
        }
        Local::Kill(arguments) => signal(arguments, Signal::KILL),
        Local::Pause(arguments) => signal(arguments, Signal::STOP),
        Local::Resume(arguments) => signal(arguments, Signal::CONT),
        Local::Restart(arguments) => {
            let layout = layout(arguments)?;
            for i in chosen(&layout, arguments)? {
                stop(&layout, &[i]);
                launch(&layout, i)?;
                await_answer(&layout, i).await?;
            }
            Ok(Exit::Done)
        }
        Local::Status(arguments) => status(&layout(arguments)?).await,
        Local::Pids(arguments) => {
            let layout = layout(arguments)?;
            for i in chosen(&layout, arguments)? {
                if let Some(process) = layout.process(i) {
                    output::line(&format!("{i} {}", process.pid))?;
                }
            }
            Ok(Exit::Done)
        }
        Local::Logs(arguments) => {
            let layout = layout(arguments)?;
            for i in chosen(&layout, arguments)? {
                let log = layout.log(i);
                output::emit(&fs::read(&log).with_context(|| log.display().to_string())?)?;
            }
            Ok(Exit::Done)
        }
        Local::Wipe(arguments) => {
            let layout = layout(arguments)?;
            stop(&layout, &layout.numbers().collect::<Vec<_>>());
            wipe(&layout.root)?;
            Ok(Exit::Done)
        }
    }
}

fn wipe(root: &Path) -> Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| root.display().to_string())
        }
        _ => Ok(()),
    }
}

async fn start(arguments: &LocalArgs) -> Result<Exit> {
    let layout = layout(arguments)?;
    if let Some(node) = arguments.node {
        chosen(&layout, arguments)?;
        if layout.process(node).is_none() {
            refuse_taken_ports(&layout, &[node])?;
            layout.prepare(node)?;
            launch(&layout, node)?;
        }
        await_answer(&layout, node).await?;
        return Ok(Exit::Done);
    }
    launch_missing(&layout)?;
    found_and_wait(&layout).await?;
    let own = own_path()?;
    let flag = if layout.port_base == 7400 && layout.address == "127.0.0.1" {
        String::new()
    } else {
        format!(" --endpoints {}", layout.endpoints())
    };
    output::line(&format!(
        "{} nodes are healthy.\n  clients   {}\n  peers     {}\n  http      {}\n\nTry:\n  \
         {own}{flag} put greeting hello\n  {own}{flag} get greeting\n  {own}{flag} cluster status",
        layout.nodes,
        layout.endpoints(),
        layout.numbers().map(|i| layout.peer(i)).collect::<Vec<_>>().join(","),
        layout.numbers().map(|i| layout.http(i)).collect::<Vec<_>>().join(","),
    ))?;
    Ok(Exit::Done)
}

/// This program, as it can be typed here.
fn own_path() -> Result<String> {
    let own = std::env::current_exe()?;
    let here = std::env::current_dir().ok();
    let near = here.as_deref().and_then(|here| own.strip_prefix(here).ok()).unwrap_or(&own);
    let prefix = if near.components().count() == 1 { "./" } else { "" };
    Ok(format!("{prefix}{}", near.display()))
}

fn refuse_taken_ports(layout: &Layout, nodes: &[u16]) -> Result<()> {
    let problems: Vec<String> = nodes
        .iter()
        .flat_map(|i| [layout.client(*i), layout.peer(*i), layout.http(*i)])
        .filter_map(|address| ports::problem(&address))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(refused(format!("nothing was started: {}", problems.join("; "))))
}

/// Starts every node that is down; if a port of one is taken, none.
///
/// # Errors
/// A taken port is named with its likely holder.
pub fn launch_missing(layout: &Layout) -> Result<()> {
    let down: Vec<u16> = layout.numbers().filter(|i| layout.process(*i).is_none()).collect();
    refuse_taken_ports(layout, &down)?;
    for i in &down {
        layout.prepare(*i)?;
        launch(layout, *i)?;
    }
    Ok(())
}

fn launch(layout: &Layout, i: u16) -> Result<()> {
    if !layout.server.exists() {
        bail!("{} is missing; run `make build`", layout.server.display());
    }
    let mut arguments = vec!["--config".to_owned(), layout.config(i).display().to_string()];
    for setting in &layout.settings {
        arguments.extend(["--set".to_owned(), setting.clone()]);
    }
    let process = spawn_detached(&layout.server, &arguments, &layout.log(i))
        .with_context(|| format!("node {i}; its log is {}", layout.log(i).display()))?;
    layout.record(i, process)?;
    Ok(())
}

async fn await_answer(layout: &Layout, i: u16) -> Result<()> {
    let end = Instant::now() + HEALTHY_LIMIT;
    loop {
        match admin::status(&layout.client(i), ASK_TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                if layout.process(i).is_none() {
                    bail!("node {i} has ended; the last lines of its log:\n{}", tail(layout, i));
                }
                if Instant::now() >= end {
                    return Err(error.context(format!("node {i} does not answer")));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn tail(layout: &Layout, i: u16) -> String {
    let text = fs::read(layout.log(i)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
}

/// Founds the cluster where no node belongs to one, then waits until it is healthy.
///
/// # Errors
/// What still was wrong when the minute was over.
pub async fn found_and_wait(layout: &Layout) -> Result<()> {
    for i in layout.numbers() {
        await_answer(layout, i).await?;
    }
    let mut founded = false;
    for i in layout.numbers() {
        let status = admin::status(&layout.client(i), ASK_TIMEOUT).await?;
        founded |= status.state != "empty";
    }
    if !founded {
        let mut client = admin::connect(&layout.client(1), HEALTHY_LIMIT).await?;
        let request = v1::InitRequest {
            peer_addresses: layout.numbers().map(|i| layout.peer(i)).collect(),
            replication_factor: 0,
        };
        client.init(admin::within(HEALTHY_LIMIT, request)).await.context("founding the cluster")?;
    }
    let endpoints: Vec<String> = layout.numbers().map(|i| layout.client(i)).collect();
    let end = Instant::now() + HEALTHY_LIMIT;
    loop {
        let health = admin::health(&endpoints, ASK_TIMEOUT).await;
        if health.problems.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("not healthy after a minute: {}", health.problems.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ends every node of the layout.
pub fn stop_all(layout: &Layout) {
    stop(layout, &layout.numbers().collect::<Vec<_>>());
}

/// SIGKILL to every node of the layout at once; returns when they are gone.
pub fn kill_all(layout: &Layout) {
    let running: Vec<_> =
        layout.numbers().filter_map(|i| layout.process(i).map(|p| (i, p))).collect();
    for (_, process) in &running {
        let _ = process.signal(Signal::KILL);
    }
    for (i, process) in &running {
        process.wait_gone(STOP_LIMIT);
        layout.forget(*i);
    }
}

fn stop(layout: &Layout, nodes: &[u16]) {
    let running: Vec<_> =
        nodes.iter().filter_map(|i| layout.process(*i).map(|p| (*i, p))).collect();
    for (_, process) in &running {
        // A stopped process cannot act on SIGTERM.
        let _ = process.signal(Signal::CONT);
        let _ = process.signal(Signal::TERM);
    }
    let end = Instant::now() + STOP_LIMIT;
    for (i, process) in &running {
        if !process.wait_gone(end.saturating_duration_since(Instant::now())) {
            output::note(&format!("node {i} did not end within 15 s; SIGKILL"));
            let _ = process.signal(Signal::KILL);
            process.wait_gone(STOP_LIMIT);
        }
        layout.forget(*i);
    }
}

fn signal(arguments: &LocalArgs, signal: Signal) -> Result<Exit> {
    let layout = layout(arguments)?;
    let node = one(&layout, arguments)?;
    let Some(process) = layout.process(node) else {
        return Err(refused(format!("node {node} is not running")));
    };
    process.signal(signal)?;
    if signal == Signal::KILL {
        process.wait_gone(STOP_LIMIT);
        layout.forget(node);
    }
    Ok(Exit::Done)
}

async fn status(layout: &Layout) -> Result<Exit> {
    let mut table = output::Table::new(["node", "process", "state", "leads", "ranges", "client"]);
    let mut answering = Vec::new();
    for i in layout.numbers() {
        let process = match layout.process(i) {
            None => "down".to_owned(),
            Some(p) if p.is_paused() => format!("{} paused", p.pid),
            Some(p) => p.pid.to_string(),
        };
        let (state, leads, ranges) = match admin::status(&layout.client(i), ASK_TIMEOUT).await {
            Ok(status) => {
                answering.push(layout.client(i));
                let leads = status.replicas.iter().filter(|r| r.role == "leader").count();
                (status.state, leads.to_string(), status.replicas.len().to_string())
            }
            Err(_) => ("no answer".to_owned(), "-".into(), "-".into()),
        };
        table.row(vec![i.to_string(), process, state, leads, ranges, layout.client(i)]);
    }
    output::emit(table.render().as_bytes())?;
    if answering.is_empty() {
        output::note("no node answers");
        return Ok(Exit::Failed);
    }
    let health = admin::health(&answering, ASK_TIMEOUT).await;
    for problem in &health.problems {
        output::note(problem);
    }
    let _ = std::io::stderr().flush();
    let healthy = health.problems.is_empty() && answering.len() == usize::from(layout.nodes);
    Ok(if healthy { Exit::Done } else { Exit::Failed })
}
