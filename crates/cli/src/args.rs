//! The grammar of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use holdfast_model::limits::REQUEST_DEADLINE_DEFAULT;

use crate::transfer::Format;

/// Holdfast: a strongly consistent key-value store.
///
/// Exit codes: 0 done; 1 the answer is no (missing key, failed condition); 2 usage or refused
/// input; 3 server or network error, nothing happened; 4 outcome unknown.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version = crate::version::SHORT, max_term_width = 100)]
pub struct Cli {
    /// Where to reach the cluster, comma-separated; one reachable node is enough.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_ENDPOINTS",
        default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403",
        value_delimiter = ','
    )]
    pub endpoints: Vec<String>,
    /// Keyspace to work on.
    #[arg(long, global = true, env = "HOLDFAST_KEYSPACE", default_value = "default")]
    pub keyspace: String,
    /// How answers are printed.
    #[arg(short, long, global = true, env = "HOLDFAST_OUTPUT", value_enum)]
    #[arg(default_value_t = Output::Table)]
    pub output: Output,
    /// Give up after this long, up to 60s [default: 5s; `lock` and `elect` wait for ever, `cluster
    /// wait` a minute].
    #[arg(long = "timeout", value_name = "LIMIT", global = true, env = "HOLDFAST_TIMEOUT")]
    #[arg(value_parser = duration)]
    pub patience: Option<Duration>,
    /// The first endpoint answers itself; nothing is routed to another node.
    #[arg(long, global = true)]
    pub direct: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// How long one call may take.
    pub fn timeout(&self) -> Duration {
        self.patience.unwrap_or(REQUEST_DEADLINE_DEFAULT)
    }
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: one JSON document, or one a line for streams.
    Json,
    /// Exact bytes of values, nothing else.
    Raw,
}

/// Which read level to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Read {
    /// Sees every write acknowledged before the read began.
    Linearizable,
    /// The same while clock rates differ by less than 10 %, without a quorum round.
    Lease,
    /// Any replica; the bound of its age is printed.
    Follower,
}

/// How to read.
#[derive(Clone, Copy, Debug, Args)]
pub struct ReadArgs {
    /// Read level.
    #[arg(long, value_enum, default_value_t = Read::Linearizable)]
    pub read: Read,
    /// Follower reads only: refuse answers that may be older than this.
    #[arg(long, value_parser = duration)]
    pub max_staleness: Option<Duration>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a key.
    Put {
        /// Its name.
        key: String,
        /// Its value; `-` reads standard input.
        value: String,
        /// Let it expire after this long (1s … ten years).
        #[arg(long, value_parser = duration)]
        ttl: Option<Duration>,
        /// Only if the key does not exist.
        #[arg(long, conflicts_with_all = ["if_revision", "if_value"])]
        if_absent: bool,
        /// Only if the key stands at this revision.
        #[arg(long, value_name = "N", conflicts_with = "if_value")]
        if_revision: Option<u64>,
        /// Only if the key has this value.
        #[arg(long, value_name = "V")]
        if_value: Option<String>,
    },
    /// Read a key.
    Get {
        /// Its name.
        key: String,
        /// How current the answer has to be.
        #[command(flatten)]
        read: ReadArgs,
        /// Read at this older revision of the key's range.
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Delete a key, or all keys with a prefix.
    Del {
        /// The key.
        #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
        key: Option<String>,
        /// Delete every key that starts with this.
        #[arg(long, value_name = "P")]
        prefix: Option<String>,
        /// Only if the key stands at this revision.
        #[arg(long, value_name = "N", conflicts_with = "prefix")]
        if_revision: Option<u64>,
    },
    /// Compare and swap: write NEW if the value is EXPECTED.
    Cas {
        /// The key.
        key: String,
        /// What it must hold.
        expected: String,
        /// What it shall hold.
        new: String,
    },
    /// Add to a decimal number.
    Incr {
        /// The key; a missing one counts as 0.
        key: String,
        /// What to add.
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Read several keys.
    Mget {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
        /// How current the answer has to be.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Write several keys.
    Mset {
        /// Pairs KEY=VALUE; the first `=` splits.
        #[arg(required = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
    },
    /// List keys in order.
    Scan {
        /// Only keys that start with this.
        #[arg(default_value = "")]
        prefix: String,
        /// Stop after so many keys.
        #[arg(long, value_name = "N", default_value_t = 0)]
        limit: u64,
        /// Do not read the values.
        #[arg(long)]
        keys_only: bool,
        /// From the last key to the first.
        #[arg(long)]
        reverse: bool,
        /// How current the answer has to be.
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Print changes as they happen.
    Watch {
        /// Only keys that start with this; all if empty.
        prefix: String,
        /// Begin with this revision.
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// End after so many events; 0 = never.
        #[arg(long, value_name = "N", default_value_t = 0)]
        limit: u64,
    },
    /// Run a transaction read from standard input.
    ///
    /// One statement a line: `if KEY = VALUE | if KEY exists | if KEY missing | if KEY revision = N
    /// | if KEY version = N`, then `then` and its operations, then `else` and its operations.
    /// Operations: `put KEY VALUE`, `del KEY`, `get KEY`, `incr KEY BY`. Words are split at white
    /// space; "…" keeps it, with \" \\ \n \t inside.
    Txn,
    /// Run a command while holding a lock, or one of several permits.
    ///
    /// The command gets HOLDFAST_FENCING_TOKEN, with --permits also HOLDFAST_SLOT (0 to N - 1). It
    /// is ended if the lock is lost. The exit code is the command's; 1 if --timeout passed before
    /// the lock was free.
    Lock {
        /// Name of the lock.
        name: String,
        /// So many may hold it at once: a semaphore, which is not the lock of that name. All who
        /// use it say the same number.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        permits: Option<u32>,
        /// The lock is free again this long after its holder has died.
        #[arg(long, value_parser = duration, default_value = "10s")]
        ttl: Duration,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Stand for election; prints the term's token, leads until interrupted.
    Elect {
        /// Name of the election.
        name: String,
        /// What to publish as leader.
        value: String,
        /// The office is vacant this long after the leader has died.
        #[arg(long, value_parser = duration, default_value = "10s")]
        ttl: Duration,
    },
    /// Load records from a file (TSV or JSON Lines, also .gz; `-` is standard input).
    Load {
        /// The file.
        file: PathBuf,
        /// Continue where an interrupted load of the same file stopped.
        #[arg(long)]
        resume: bool,
    },
    /// Write records to standard output.
    Dump {
        /// Only keys that start with this.
        #[arg(default_value = "")]
        prefix: String,
        /// Text format.
        #[arg(long, value_enum, default_value_t = Format::Tsv)]
        format: Format,
    },
    /// Look at and steer the cluster.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Create, list, change and drop keyspaces.
    #[command(subcommand)]
    Keyspace(Keyspace),
    /// Measure throughput, latency and CPU per operation.
    Bench(BenchArgs),
    /// A cluster on this machine.
    #[command(subcommand)]
    Local(Local),
    /// Look into files of a stopped node: layout, statistics, records; find damage.
    ///
    /// Never writes. Exit code 1 if something is damaged, naming file, offset and what; all of it
    /// is read and verified with `--verify`.
    Inspect(InspectArgs),
    /// Print a completion script.
    Completion {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Versions of client, servers and formats.
    Version,
}

/// `holdfast cluster …`
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Found a cluster, once, on the first endpoint.
    Init {
        /// Peer addresses of all founding nodes, the asked one included.
        #[arg(long, value_delimiter = ',')]
        peers: Vec<String>,
        /// Replicas of each range; 0 = 3, or fewer with fewer nodes.
        #[arg(long, default_value_t = 0)]
        replication_factor: u32,
    },
    /// One line for every node.
    Status,
    /// Wait until the cluster is in order.
    Wait {
        /// Every range led and fully replicated.
        #[arg(long, required = true)]
        healthy: bool,
    },
    /// Nodes with their addresses.
    Nodes,
    /// Ranges with their leaders and replicas.
    Ranges,
    /// The cluster map as JSON.
    Map,
    /// Hand the leadership of a range over.
    Transfer {
        /// The range.
        range: u64,
        /// To this node; default: any up-to-date one.
        #[arg(long, default_value_t = 0)]
        to: u64,
    },
}

/// How the replicas of a keyspace merge their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compaction {
    /// Little dead data and few places to look, for more rewriting.
    Leveled,
    /// Less rewriting, for up to twice the space and more places to look.
    Tiered,
}

/// What a keyspace is to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyspaceKind {
    /// Keys in any number of ranges.
    Native,
    /// One etcd: one range, dense revisions; no TTLs of keys and no native locks.
    Etcd,
}

/// `holdfast keyspace …`
#[derive(Debug, Subcommand)]
pub enum Keyspace {
    /// Create a keyspace and wait until it serves.
    Create {
        /// Its name.
        name: String,
        /// How many ranges: a power of two, 1 … 256; 0 = 8, or 1 where the kind is etcd.
        #[arg(long, default_value_t = 0)]
        ranges: u32,
        /// Replicas per range; 0 = the cluster's default.
        #[arg(long, default_value_t = 0)]
        replication_factor: u32,
        /// latest, manual, a duration (10m), or a number of revisions; without it 10m, or manual
        /// where the kind is etcd.
        #[arg(long, value_parser = history)]
        history: Option<holdfast_model::History>,
        /// How tables are merged: tiered for data that is written much and read little.
        #[arg(long, default_value = "leveled")]
        compaction: Compaction,
        /// Whether it is one etcd to its clients.
        #[arg(long, default_value = "native")]
        kind: KeyspaceKind,
    },
    /// All keyspaces.
    List,
    /// Change a keyspace.
    Alter {
        /// Its name.
        name: String,
        /// latest, manual, a duration (10m), or a number of revisions.
        #[arg(long, value_parser = history)]
        history: holdfast_model::History,
    },
    /// Drop a keyspace with everything in it.
    Drop {
        /// Its name.
        name: String,
        /// Really.
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// `holdfast bench …`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; `suite` starts its own nodes and prints the whole table.
    #[arg(value_enum, default_value_t = Workload::Put)]
    pub workload: Workload,
    /// Concurrent clients, each with one operation under way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,
    /// How long each measurement runs.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Bytes of a key (16 … 4096).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub key_bytes: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_485_760))]
    pub value_bytes: u32,
    /// How many different keys.
    #[arg(long, default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Also write the result as a page.
    #[arg(long, value_name = "OUT.html")]
    pub report: Option<PathBuf>,
    /// Idle seconds of the suite's idle measurement.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub idle_seconds: u64,
    /// Internal: serve the echo the suite compares with.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub serve_echo: Option<String>,
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Durable writes.
    Put,
    /// Linearizable reads.
    Get,
    /// Lease reads.
    GetLease,
    /// Follower reads.
    GetFollower,
    /// 90 % linearizable reads, 10 % writes.
    Mixed,
    /// Compare-and-swap by revision, one key per client.
    Cas,
    /// All of these on own nodes, beside a gRPC echo.
    Suite,
    /// On own nodes: `--keys` records on three replicas, SIGKILL, how long until all is served.
    Restart,
    /// On own nodes: `--keys` keys that expire within one second, beside other clients.
    Expiry,
}

/// `holdfast local …`
#[derive(Debug, Subcommand)]
pub enum Local {
    /// Start the nodes that are down (all, or one), found the cluster if it is new.
    Start(LocalArgs),
    /// SIGTERM, 15 s, then SIGKILL; keeps data.
    Stop(LocalArgs),
    /// SIGKILL one node.
    Kill(LocalArgs),
    /// SIGSTOP one node.
    Pause(LocalArgs),
    /// SIGCONT one node.
    Resume(LocalArgs),
    /// Stop, then start one node (or all).
    Restart(LocalArgs),
    /// State of every node; exit 0 only if all are healthy.
    Status(LocalArgs),
    /// Lines "NODE PID".
    Pids(LocalArgs),
    /// Print the log of a node.
    Logs(LocalArgs),
    /// Stop, then delete the data.
    Wipe(LocalArgs),
}

/// Which local nodes.
#[derive(Clone, Debug, Args)]
pub struct LocalArgs {
    /// One node, 1 …; default: all.
    pub node: Option<u16>,
    /// How many nodes (with `start`; default: what is there, else 3).
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: Option<u16>,
    /// Folder of the cluster.
    #[arg(long, default_value = ".cluster", value_name = "DIR")]
    pub dir: PathBuf,
    /// Loopback address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub address: String,
    /// Node i: clients on this + i, peers + 10 + i, HTTP + 20 + i.
    #[arg(long, default_value_t = 7400)]
    pub port_base: u16,
    /// A configuration value for the nodes, section.key=value.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// Reads `1500ms`, `2s`, `5m`, `1h`, `7d`, `1.5s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a duration like 2s"))?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "" => return Err(format!("{text:?} needs a unit: ms, s, m, h or d")),
        other => return Err(format!("unit {other:?} is none of ms, s, m, h, d")),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|e| format!("{text:?}: {e}"))
}

fn history(text: &str) -> Result<holdfast_model::History, String> {
    use holdfast_model::History;
    match text {
        "latest" => Ok(History::Latest),
        "manual" => Ok(History::Manual),
        _ => match text.parse::<u64>() {
            Ok(revisions) if revisions > 0 => Ok(History::Revisions(revisions)),
            Ok(_) => Err("0 revisions: say latest".into()),
            Err(_) => duration(text).map(History::Duration),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_names_an_argument_like_a_global_one() {
        // clap takes two arguments of one id for the same, and finds out when it reads them.
        fn check(command: &clap::Command, global: &[&clap::Id]) {
            for sub in command.get_subcommands() {
                for argument in sub.get_arguments() {
                    let name = format!("{} {}", sub.get_name(), argument.get_id());
                    assert!(!global.contains(&argument.get_id()), "{name}");
                }
                check(sub, global);
            }
        }
        let command = Cli::command();
        let global = command.get_arguments().filter(|argument| argument.is_global_set());
        let global: Vec<&clap::Id> = global.map(clap::Arg::get_id).collect();
        assert!(!global.is_empty());
        check(&command, &global);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "2", "s", "2x", "-1s", "1e99s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}

/// Which files to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectWhat {
    /// A table file, `….tbl`.
    Table,
    /// A manifest, `MANIFEST`.
    Manifest,
    /// A blob file, `….blob`.
    Blob,
    /// A journal's directory, or one segment of it, `….journal`.
    Journal,
    /// A node's data directory, or one of an engine or a journal in it.
    Dir,
}

/// What to show of files.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// What it is.
    #[arg(value_enum)]
    pub what: InspectWhat,
    /// Where it is.
    pub path: PathBuf,
    /// Read everything and compare it with every checksum.
    #[arg(long)]
    pub verify: bool,
    /// Show records, escaped and shortened.
    #[arg(long)]
    pub dump: bool,
    /// Most rows of each table that are shown, and most records.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Look although a running node holds the directory; excludes `--verify`, because what a node
    /// is just writing looks damaged.
    #[arg(long)]
    pub live: bool,
    /// One JSON document, like `--output json`.
    #[arg(long)]
    pub json: bool,
}
