//! Configuration: a TOML file, then the environment, then `--set`; merged as tables, parsed once.
//!
//! Owns: the sections of this crate and of the crates below it, their defaults and checks.
//! Must never know: where the file lies, what `server` does with it.
//! Invariants:
//! * A key nobody knows is refused, with the nearest known one.
//! * A configuration that was loaded is valid; nothing checks it a second time.
//! * `config/reference.toml` states every key with its default; a test compares them.

mod merge;
mod sections;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
pub use merge::Sources;
pub use sections::{
    AdmissionSection, AdvertiseSection, ClusterSection, DiskSection, EngineSection, JournalSection,
    ListenSection, LogSection, NodeSection, PeersSection, RaftSection, RuntimeSection,
    ShutdownSection,
};

/// Everything a node can be told. Every field has a default; see `config/reference.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Identity of the process.
    pub node: NodeSection,
    /// Addresses it binds.
    pub listen: ListenSection,
    /// Addresses it tells others.
    pub advertise: AdvertiseSection,
    /// The cluster it belongs to.
    pub cluster: ClusterSection,
    /// Threads.
    pub runtime: RuntimeSection,
    /// Consensus timing.
    pub raft: RaftSection,
    /// Connections between nodes.
    pub peers: PeersSection,
    /// The shared log.
    pub journal: JournalSection,
    /// The LSM trees.
    pub engine: EngineSection,
    /// Back-pressure.
    pub admission: AdmissionSection,
    /// Free-space watcher.
    pub disk: DiskSection,
    /// What requests may ask for.
    pub limits: Limits,
    /// Logging.
    pub log: LogSection,
    /// Orderly stop.
    pub shutdown: ShutdownSection,
    /// Sections of the crates above this one, every key with its value.
    #[serde(skip)]
    pub others: toml::Table,
}

/// Why a configuration is refused. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file, an environment variable or a `--set` is not TOML.
    #[error("{origin}: {problem}")]
    Syntax {
        /// Which source.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such key.
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// Which source.
        origin: String,
        /// The key, dotted.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value has the wrong type or is out of its range.
    #[error("`{key}`: {problem}")]
    Invalid {
        /// The key, dotted; empty where several are concerned.
        key: String,
        /// What is wrong, with the limit.
        problem: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

impl ConfigError {
    pub(crate) fn invalid(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.into(), problem: problem.into() }
    }
}

impl Config {
    /// Merges `sources`, parses the result once and checks it.
    ///
    /// # Errors
    /// [`ConfigError`]: says which key of which source; correct it, then start again.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let config = merge::parse(sources)?;
        config.validate()?;
        Ok(config)
    }

    /// The configuration as TOML, every key included.
    pub fn to_toml(&self) -> String {
        let printed = toml::Table::try_from(self).and_then(|mut table| {
            table.extend(self.others.clone());
            toml::to_string_pretty(&table)
        });
        printed.unwrap_or_else(|error| format!("# not printable: {error}\n"))
    }

    /// The address other nodes and clients use for the client port.
    pub fn client_address(&self) -> String {
        or_else_listen(&self.advertise.client, &self.listen.client)
    }

    /// The address other nodes use for the peer port.
    pub fn peer_address(&self) -> String {
        or_else_listen(&self.advertise.peer, &self.listen.peer)
    }

    /// The address of the HTTP port; empty when it is off.
    pub fn http_address(&self) -> String {
        or_else_listen(&self.advertise.http, &self.listen.http)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.validate_addresses()?;
        self.node.validate()?;
        self.cluster.validate()?;
        self.runtime.validate()?;
        self.raft.validate()?;
        self.peers.validate()?;
        self.journal.validate()?;
        self.engine.validate()?;
        self.admission.validate()?;
        self.disk.validate()?;
        self.limits.validate().map_err(|problem| {
            let (key, text) = problem.split_once(": ").unwrap_or(("limits", &problem));
            ConfigError::invalid(key, text)
        })?;
        self.log.validate()?;
        self.shutdown.validate()
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let listen = [
            ("listen.client", &self.listen.client, false),
            ("listen.peer", &self.listen.peer, false),
            ("listen.http", &self.listen.http, true),
        ];
        for (key, text, may_be_empty) in listen {
            if may_be_empty && text.is_empty() {
                continue;
            }
            let address: SocketAddr = text.parse().map_err(|_| {
                ConfigError::invalid(key, format!("an address like 127.0.0.1:7401, not {text:?}"))
            })?;
            if !address.ip().is_loopback() && !self.listen.insecure {
                return Err(ConfigError::invalid(
                    key,
                    format!(
                        "{address} is not a loopback address and connections are not encrypted; \
                         set listen.insecure = true only on a network you trust"
                    ),
                ));
            }
            let unspecified = address.ip().is_unspecified();
            let advertised = match key {
                "listen.client" => &self.advertise.client,
                "listen.peer" => &self.advertise.peer,
                _ => &self.advertise.http,
            };
            if unspecified && advertised.is_empty() {
                return Err(ConfigError::invalid(
                    key.replace("listen", "advertise"),
                    format!("must be set, since nobody can connect to {address}"),
                ));
            }
        }
        Ok(())
    }
}

fn or_else_listen(advertise: &str, listen: &str) -> String {
    if advertise.is_empty() { listen.to_owned() } else { advertise.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections of the reference file that belong to the crates above.
    const OTHERS: [&str; 1] = ["etcd"];

    fn set(sets: &[&str]) -> Result<Config, ConfigError> {
        let sets = sets.iter().map(|s| (*s).to_owned()).collect();
        Config::load(&Sources { sets, ..Sources::default() })
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::load(&Sources::default()), Ok(Config::default()));
    }

    #[test]
    fn the_reference_file_states_every_key_with_its_default() {
        let text = include_str!("../../../../config/reference.toml");
        let sources = Sources {
            file: Some(("config/reference.toml".into(), text.into())),
            ..Sources::default()
        };
        let given: toml::Table = text.parse().unwrap();
        // What stands there for the crates above is held against their own defaults by them.
        let others = given.iter().filter(|(section, _)| OTHERS.contains(&section.as_str()));
        let others: toml::Table = others.map(|(name, keys)| (name.clone(), keys.clone())).collect();
        let loaded = Config::load(&Sources { others: others.clone(), ..sources }).unwrap();
        assert_eq!(loaded, Config { others, ..Config::default() });
        let known: toml::Table = Config::default().to_toml().parse().unwrap();
        for (section, keys) in &known {
            for key in keys.as_table().unwrap().keys() {
                let there = given.get(section).and_then(|s| s.get(key)).is_some();
                assert!(there, "config/reference.toml lacks {section}.{key}");
            }
        }
    }

    #[test]
    fn later_sources_win() {
        let sources = Sources {
            file: Some(("f".into(), "[raft]\nheartbeat_ms = 100\n[node]\nzone = 'a'".into())),
            environment: vec![
                ("HOLDFAST_RAFT__HEARTBEAT_MS".into(), "110".into()),
                ("HOLDFAST_NODE__ZONE".into(), "b".into()),
                ("HOLDFAST_ENDPOINTS".into(), "not configuration".into()),
                ("PATH".into(), "/".into()),
            ],
            sets: vec!["raft.heartbeat_ms=120".into()],
            ..Sources::default()
        };
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.raft.heartbeat_ms, 120);
        assert_eq!(config.node.zone, "b");
    }

    #[test]
    fn a_section_of_another_crate_is_merged_like_our_own_and_its_keys_are_known() {
        let others: toml::Table = "[above]\nname = 'a'\ncount = 1\nlist = []".parse().unwrap();
        let load = |sets: &[&str]| {
            let file = Some(("f".into(), "[[above.list]]\nx = 1\n[node]\nzone = 'z'".into()));
            let sets = sets.iter().map(|s| (*s).to_owned()).collect();
            Config::load(&Sources { file, sets, others: others.clone(), ..Sources::default() })
        };
        let config = load(&["above.count=7"]).unwrap();
        let expected: toml::Table =
            "[above]\nname = 'a'\ncount = 7\nlist = [{ x = 1 }]".parse().unwrap();
        assert_eq!((config.node.zone.as_str(), &config.others), ("z", &expected));
        let printed: toml::Table = config.to_toml().parse().unwrap();
        assert_eq!(printed["above"], expected["above"]);
        let error = load(&["above.cuont=7"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `above.count`?"), "{error}");
        assert!(set(&["above.count=7"]).is_err(), "a section nobody takes");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let error = set(&["raft.hartbeat_ms=1"]).unwrap_err().to_string();
        assert!(error.contains("`raft.hartbeat_ms`, did you mean `raft.heartbeat_ms`?"), "{error}");
        let error = set(&["zzzzzzzzzz.q=1"]).unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn plaintext_beyond_loopback_needs_consent() {
        let error = set(&["listen.client=192.0.2.1:7401"]).unwrap_err().to_string();
        assert!(error.contains("listen.insecure"), "{error}");
        assert!(set(&["listen.client=192.0.2.1:7401", "listen.insecure=true"]).is_ok());
        let error = set(&["listen.peer=0.0.0.0:7411", "listen.insecure=true"]).unwrap_err();
        assert!(error.to_string().contains("advertise.peer"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for bad in [
            "raft.heartbeat_ms=0",
            "raft.election_max_ms=1",
            "runtime.reactors=65",
            "node.weight=-1.0",
            "engine.memtable_bytes=1",
            "disk.recover_above_bytes=0",
            "log.level=loud",
        ] {
            let error = set(&[bad]).unwrap_err().to_string();
            let key = bad.split('=').next().unwrap();
            assert!(error.contains(key.rsplit('.').next().unwrap()), "{bad}: {error}");
        }
    }
}
