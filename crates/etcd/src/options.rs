//! Section `[etcd]` of the configuration.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use holdfast_model::{ETCD_KEYSPACE, limits};
use holdfast_node::config::ConfigError;
use holdfast_node::services::Door;
use holdfast_node::users::Settings;
use serde::{Deserialize, Serialize};

/// The section's name.
const SECTION: &str = "etcd";
/// What a message may be longer than a request that changes something: names, conditions, frames.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1_024;
/// A smaller bound on requests would refuse what every client takes for granted.
const REQUEST_BYTES_FLOOR: usize = 64 * 1_024;
/// A larger one would not fit with what messages may be longer.
const REQUEST_BYTES_CEILING: usize = limits::REQUEST_BYTES_MAX - MESSAGE_OVERHEAD_BYTES;
/// etcd's floor for the interval of progress notifications.
const PROGRESS_NOTIFY_MIN_MS: u64 = 100;
/// A shorter life of a token would be over before a client has used it.
const TOKEN_TTL_MIN_MS: u64 = 1_000;
/// A day: whoever finds a token should not have it for long.
const TOKEN_TTL_MAX_MS: u64 = 24 * 3_600 * 1_000;
/// Costs that bcrypt knows.
const BCRYPT_COSTS: RangeInclusive<u32> = 4..=31;
/// Ports beside the one of section `[listen]`.
const LISTENERS_MAX: usize = 64;

/// What can be set about the etcd API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The keyspace of calls that name none, on the port of section `[listen]`.
    pub keyspace: String,
    /// Largest request that changes something, bytes.
    pub request_bytes_max: usize,
    /// The version of etcd that clients are told, `major.minor.patch`.
    pub version: String,
    /// How often a quiet watch that wants to be told is told how far it is, milliseconds.
    pub progress_notify_interval_ms: u64,
    /// How long a token lives after it was made, and after every use on the same node,
    /// milliseconds.
    pub auth_token_ttl_ms: u64,
    /// The cost of the hash of a password: each more doubles the time it takes.
    pub bcrypt_cost: u32,
    /// Further client ports, each with a keyspace of its own.
    pub listen: Vec<Listen>,
}

/// One more client port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Where it listens, `ip:port`.
    pub address: String,
    /// The keyspace of calls there that name none.
    pub keyspace: String,
}

impl Default for Options {
    /// Keyspace `etcd`, and what etcd has for defaults.
    fn default() -> Self {
        Self {
            keyspace: ETCD_KEYSPACE.to_owned(),
            request_bytes_max: 1_536 * 1_024,
            version: "3.7.1".to_owned(),
            progress_notify_interval_ms: 600_000,
            auth_token_ttl_ms: 300_000,
            bcrypt_cost: 10,
            listen: Vec::new(),
        }
    }
}

impl Options {
    /// Every key of the section with its default, for [`holdfast_node::config::Sources::others`].
    pub fn defaults() -> toml::Table {
        let section = toml::Value::try_from(Self::default());
        let section = section.unwrap_or_else(|_| toml::Table::new().into());
        [(SECTION.to_owned(), section)].into_iter().collect()
    }

    /// The options of a configuration.
    ///
    /// # Errors
    /// Which key is wrong, and how.
    pub fn of(sections: &toml::Table) -> Result<Self, ConfigError> {
        let Some(section) = sections.get(SECTION) else { return Ok(Self::default()) };
        let options: Self = section.clone().try_into().map_err(|error: toml::de::Error| {
            invalid(SECTION, error.to_string().trim_end().replace('\n', " "))
        })?;
        options.validate()?;
        Ok(options)
    }

    /// The further client ports.
    pub fn doors(&self) -> Vec<Door> {
        let door = |listen: &Listen| {
            let options = Self { keyspace: listen.keyspace.clone(), ..self.clone() };
            let adapters = vec![crate::adapter(&options)];
            Door { key: "etcd.listen", address: listen.address.clone(), adapters }
        };
        self.listen.iter().map(door).collect()
    }

    /// What is set about users.
    pub fn users(&self) -> Settings {
        let token_ttl = Duration::from_millis(self.auth_token_ttl_ms);
        Settings { token_ttl, bcrypt_cost: self.bcrypt_cost }
    }

    /// The longest message that is taken.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + MESSAGE_OVERHEAD_BYTES
    }

    /// The version without its last part: that of a cluster of such servers.
    pub(crate) fn cluster_version(&self) -> String {
        let minor = self.version.rsplit_once('.').map_or("", |(minor, _)| minor);
        format!("{minor}.0")
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let (least, most) = (REQUEST_BYTES_FLOOR, REQUEST_BYTES_CEILING);
        let given = self.request_bytes_max;
        if !(least..=most).contains(&given) {
            let problem = format!("between {least} and {most}, given {given}");
            return Err(invalid("etcd.request_bytes_max", problem));
        }
        if !is_version(&self.version) {
            let problem = format!("three numbers like 3.7.1, given {:?}", self.version);
            return Err(invalid("etcd.version", problem));
        }
        let given = self.progress_notify_interval_ms;
        if given < PROGRESS_NOTIFY_MIN_MS {
            let problem = format!("at least {PROGRESS_NOTIFY_MIN_MS}, given {given}");
            return Err(invalid("etcd.progress_notify_interval_ms", problem));
        }
        let (least, most) = (TOKEN_TTL_MIN_MS, TOKEN_TTL_MAX_MS);
        let given = self.auth_token_ttl_ms;
        if !(least..=most).contains(&given) {
            let problem = format!("between {least} and {most}, given {given}");
            return Err(invalid("etcd.auth_token_ttl_ms", problem));
        }
        if !BCRYPT_COSTS.contains(&self.bcrypt_cost) {
            let (least, most) = (BCRYPT_COSTS.start(), BCRYPT_COSTS.end());
            let problem = format!("between {least} and {most}, given {}", self.bcrypt_cost);
            return Err(invalid("etcd.bcrypt_cost", problem));
        }
        if self.listen.len() > LISTENERS_MAX {
            let problem = format!("at most {LISTENERS_MAX} ports, given {}", self.listen.len());
            return Err(invalid("etcd.listen", problem));
        }
        for keyspace in self.listen.iter().map(|listen| &listen.keyspace).chain([&self.keyspace]) {
            if keyspace.is_empty() {
                return Err(invalid("etcd.keyspace", "a keyspace must be named".to_owned()));
            }
        }
        for Listen { address, .. } in &self.listen {
            if address.parse::<SocketAddr>().is_err() {
                let problem = format!("an address like 127.0.0.1:2379, not {address:?}");
                return Err(invalid("etcd.listen", problem));
            }
        }
        Ok(())
    }
}

fn invalid(key: &str, problem: String) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), problem }
}

fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use holdfast_node::config::{Config, Sources};

    use super::*;

    fn options(sets: &[&str]) -> Result<Options, ConfigError> {
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        let sources = Sources { sets, others: Options::defaults(), ..Sources::default() };
        Options::of(&Config::load(&sources)?.others)
    }

    #[test]
    fn the_reference_file_states_every_key_of_the_section_with_its_default() {
        let text = include_str!("../../../config/reference.toml");
        let given: toml::Table = text.parse().unwrap();
        assert_eq!(given.get(SECTION), Options::defaults().get(SECTION));
        assert_eq!(options(&[]), Ok(Options::default()));
    }

    #[test]
    fn ports_with_keyspaces_of_their_own_are_read() {
        let set = "etcd.listen=[{ address = '127.0.0.1:2379', keyspace = 'a' }]";
        let options = options(&[set, "etcd.keyspace=b"]).unwrap();
        let listen = Listen { address: "127.0.0.1:2379".into(), keyspace: "a".into() };
        assert_eq!((options.keyspace.as_str(), &options.listen), ("b", &vec![listen]));
        assert_eq!(options.doors().len(), 1);
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for bad in [
            "etcd.keyspace=",
            "etcd.request_bytes_max=1",
            "etcd.request_bytes_max=16777216",
            "etcd.version=3.7",
            "etcd.progress_notify_interval_ms=99",
            "etcd.auth_token_ttl_ms=999",
            "etcd.auth_token_ttl_ms=86400001",
            "etcd.bcrypt_cost=3",
            "etcd.bcrypt_cost=32",
            "etcd.listen=[{ address = 'here', keyspace = 'a' }]",
            "etcd.listen=[{ address = '127.0.0.1:2379', keyspace = '' }]",
            "etcd.listen=[{ adress = '127.0.0.1:2379', keyspace = 'a' }]",
        ] {
            let error = options(&[bad]).unwrap_err().to_string();
            assert!(error.contains("etcd"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_cluster_has_the_version_of_its_servers_without_the_last_part() {
        assert_eq!(Options::default().cluster_version(), "3.7.0");
    }
}
