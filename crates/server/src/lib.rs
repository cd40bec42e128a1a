//! The executable `holdfastd`: configuration, composition, signals, exit codes.
//!
//! Owns: the command line, logging, the reaction to panics and signals.
//! Must never know: any logic worth a unit test.
//! Invariants:
//! * Whatever the node learns of time it learns from the clock that [`run`] was given; timers alone
//!   are tokio's.
//!
//! Exit codes: 0 stopped in order; 1 the node could not start or run; 2 usage or configuration;
//! 3 a second signal ended it before it had drained. A panic and a disk that cannot be trusted
//! abort the process.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod allocator;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use holdfast_console::Arrival;
use holdfast_env::Clock;
use holdfast_env::real::{RealDisk, RealEntropy};
use holdfast_etcd::{Options as EtcdOptions, Pages};
use holdfast_node::config::{Config, Sources};
use holdfast_node::registry::Doors;
use holdfast_node::{Node, World};
use holdfast_runtime::net::RealNet;
use holdfast_runtime::{Tasks, Workers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// File descriptors a node wants: tables, segments, connections.
const FILES_WANTED: u64 = 4_096;
/// Below this it does not start.
const FILES_NEEDED: u64 = 256;
/// HTTP requests under way get this long at the end.
const HTTP_PATIENCE: Duration = Duration::from_millis(500);

/// A node of a Holdfast cluster.
#[derive(Debug, Parser)]
#[command(name = "holdfastd", version)]
struct Arguments {
    /// TOML file; every key stands in config/reference.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Data directory; the same as --set node.data_dir=DIR.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Founds a cluster of this node alone if the data directory is empty.
    #[arg(long)]
    single: bool,
    /// Allows unencrypted connections beyond loopback; the same as --set listen.insecure=true.
    #[arg(long)]
    insecure: bool,
    /// Checks the configuration and ends.
    #[arg(long)]
    check_config: bool,
    /// Prints the whole configuration as it would be used and ends.
    #[arg(long)]
    print_config: bool,
}

/// Runs a node as the command line says, by `clock`, until it has ended; the exit code of the
/// process.
pub fn run(clock: Arc<dyn Clock>) -> ExitCode {
    allocator::set_up();
    let arguments = Arguments::parse();
    let config = match load(&arguments) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("holdfastd: {error:#}");
            return ExitCode::from(2);
        }
    };
    if arguments.print_config {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    if arguments.check_config {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    let relog = start_log(&config);
    abort_on_panic();
    match serve(config, &arguments, &relog, clock) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("holdfastd: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn load(arguments: &Arguments) -> anyhow::Result<Config> {
    let file = match &arguments.config {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Some((path.display().to_string(), text))
        }
    };
    let mut sets = Vec::new();
    if let Some(dir) = &arguments.data_dir {
        sets.push(format!("node.data_dir={dir}"));
    }
    if arguments.insecure {
        sets.push("listen.insecure=true".to_owned());
    }
    sets.extend(arguments.sets.iter().cloned());
    let environment = std::env::vars().collect();
    let others = EtcdOptions::defaults();
    let config = Config::load(&Sources { file, environment, sets, others })?;
    EtcdOptions::of(&config.others)?;
    Ok(config)
}

/// Changes what is logged while the process runs.
type Relog = Box<dyn Fn(&str) + Send + Sync>;

/// openraft and the transport tell every step at `info`; who wants that names them.
fn filter(level: &str) -> EnvFilter {
    let level = format!("openraft=error,h2=warn,hyper=warn,tonic=warn,tower=warn,{level}");
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn start_log(config: &Config) -> Relog {
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let has_colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.log.level))
        .with_writer(std::io::stderr)
        .with_ansi(has_colour)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.init();
    Box::new(move |level| match handle.reload(filter(level)) {
        Ok(()) => tracing::info!(level, "log level changed"),
        Err(error) => tracing::error!(%error, "log level stays"),
    })
}

/// A panic is a defect: the state of the process is unknown, and recovery is well tested.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!("{panic}\n{backtrace}");
        eprintln!("holdfastd: {panic}\n{backtrace}");
        std::process::abort();
    }));
}

/// Raises the limit of open files as far as allowed.
fn raise_file_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(FILES_WANTED).max(limit.current.unwrap_or(0));
    // Where it cannot be raised, what there is has to do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    anyhow::ensure!(
        current >= FILES_NEEDED,
        "only {current} open files are allowed, at least {FILES_NEEDED} are needed (ulimit -n)"
    );
    if current < FILES_WANTED {
        tracing::warn!(current, wanted = FILES_WANTED, "few open files are allowed (ulimit -n)");
    }
    Ok(())
}

fn serve(
    config: Config,
    arguments: &Arguments,
    relog: &Relog,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<ExitCode> {
    raise_file_limit()?;
    // Replicas and connections live on the node's reactors; this runtime waits for signals and
    // serves the HTTP port.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            code = live(config, arguments.single, clock) => code,
            never = hang_ups(arguments, relog) => never,
        }
    })
}

async fn live(config: Config, single: bool, clock: Arc<dyn Clock>) -> anyhow::Result<ExitCode> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let patience = Duration::from_millis(config.shutdown.deadline_ms);
    let http = config.listen.http.clone();
    let etcd = EtcdOptions::of(&config.others)?;
    let etcd_pages = Pages::new(&etcd);
    let net = Arc::new(RealNet);
    let world = World {
        doors: Doors { disk: Arc::new(RealDisk), clock, entropy: Arc::new(RealEntropy) },
        net: net.clone(),
        workers: Workers::Threads,
        fatal: Arc::new(|reason| {
            tracing::error!(reason, "the process cannot go on");
            eprintln!("holdfastd: {reason}");
            std::process::abort();
        }),
        adapters: vec![holdfast_etcd::adapter(&etcd)],
        more_doors: etcd.doors(),
        users: etcd.users(),
    };
    // Before the node: recovery may take long, and the health pages tell that it goes on.
    let (arrival, tasks) = (Arc::new(Arrival::default()), Tasks::new());
    if !http.is_empty() {
        let address = http.parse().context("listen.http")?;
        let served =
            holdfast_console::serve(arrival.clone(), etcd_pages.router(), &*net, address, &tasks);
        served.await.with_context(|| format!("cannot listen on {http} (listen.http)"))?;
    }
    let node = tokio::select! {
        started = Node::start(config, world, single) => Arc::new(started?),
        () = wanted(&mut term, &mut int) => return Ok(ExitCode::SUCCESS),
    };
    arrival.arrived(node.clone());
    etcd_pages.arrived(node.gateway());
    tracing::info!(
        client = %node.client_address(),
        node = node.status().node_id,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    tokio::select! {
        () = wanted(&mut term, &mut int) => {}
        reason = node.refused() => anyhow::bail!(reason),
    }
    let drained = async {
        node.shutdown(patience).await;
        // The HTTP port answers until the end, so that a balancer sees the draining.
        let _ = tasks.stop(HTTP_PATIENCE).await;
    };
    tokio::select! {
        () = drained => Ok(ExitCode::SUCCESS),
        () = wanted(&mut term, &mut int) => {
            tracing::warn!("ended by a second signal");
            Ok(ExitCode::from(3))
        }
    }
}

/// At every SIGHUP the configuration is read again; the log level is what can change.
async fn hang_ups(arguments: &Arguments, relog: &Relog) -> anyhow::Result<ExitCode> {
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        if hang_up.recv().await.is_none() {
            return std::future::pending().await;
        }
        match load(arguments) {
            Ok(config) => relog(&config.log.level),
            Err(error) => tracing::error!("the configuration is not read again: {error:#}"),
        }
    }
}

/// Waits for SIGTERM or SIGINT.
async fn wanted(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
