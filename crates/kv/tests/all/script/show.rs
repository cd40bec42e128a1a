//! Outcomes, events and entries as scripts show them.

use bytes::Bytes;
use holdfast_kv::command::AuthPermission;
use holdfast_kv::{
    AuthAnswer, Entry, Event, EventKind, LeaseInfo, LockStanding, LockState, Outcome, Previous,
    RevisionEvents, TxnResult,
};

pub fn text(bytes: &Bytes) -> String {
    bytes.escape_ascii().to_string()
}

pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Applied(m) if m.count == 0 => format!("applied nothing at {}", m.revision),
        Outcome::Applied(m) => {
            let mut line = format!("applied {}", m.revision);
            if m.version > 0 {
                line += &format!(" version {} created {}", m.version, m.create_revision);
            }
            if m.version == 0 {
                line += &format!(" count {}", m.count);
            }
            if m.number != 0 {
                line += &format!(" number {}", m.number);
            }
            if let Some(previous) = &m.previous {
                line += &format!(" previous {}", entry(previous));
            }
            line + if m.more { " more" } else { "" }
        }
        Outcome::ConditionFailed { current } => {
            format!("condition failed, current {}", maybe(current.as_ref()))
        }
        Outcome::Txn(txn) => {
            let branch = if txn.succeeded { "then" } else { "else" };
            let at = if txn.changed { "changed at" } else { "unchanged at" };
            let results: Vec<String> = txn.results.iter().map(self::result).collect();
            let lost = if txn.results_lost { " results lost" } else { "" };
            format!("txn {branch} {at} {}{lost}: {}", txn.revision, results.join(", "))
        }
        Outcome::Etcd(txn) => {
            let branch = if txn.succeeded { "then" } else { "else" };
            let at = if txn.changed { "changed at" } else { "unchanged at" };
            format!("etcd {branch} {at} {}: {:?}", txn.revision, txn.results)
        }
        Outcome::Lease(lease) if lease.ttl_ms == 0 => {
            format!("lease ended at {}, {} keys", lease.revision, lease.keys_removed)
        }
        Outcome::Lease(lease) => format!("lease granted until {}", lease.expires_at_ms),
        Outcome::Renewed(renewals) => {
            let shown = renewals.iter().map(|r| match r.ttl_ms {
                0 => format!("{} gone", r.id.0),
                _ => format!("{} until {}", r.id.0, r.expires_at_ms),
            });
            format!("renewed {}", shown.collect::<Vec<_>>().join(", "))
        }
        Outcome::Lock(lock) => {
            let standing = match lock.standing {
                LockStanding::Held { token } => format!("held token {token}"),
                LockStanding::Waiting { ahead } => format!("waiting behind {ahead}"),
                LockStanding::Absent => "absent".into(),
            };
            let changed = if lock.changed { "" } else { " unchanged" };
            format!("{standing} until {}{changed}; {}", lock.expires_at_ms, self::lock(&lock.state))
        }
        Outcome::Session { idle_max_ms: 0 } => "session closed".into(),
        Outcome::Session { idle_max_ms } => format!("session open, idle {idle_max_ms}"),
        Outcome::Expired { keys, more } => {
            format!("expired {keys} keys{}", if *more { ", more due" } else { "" })
        }
        Outcome::Compacted { oldest } => format!("compacted, oldest {oldest}"),
        Outcome::Alarms(alarms) => format!("alarms {alarms:?}"),
        Outcome::EtcdAuth(answer) => format!("users: {}", users(answer)),
        Outcome::Configured(truth) => format!("configured {} epoch {}", truth.span, truth.epoch),
        Outcome::Noop => "nothing".into(),
        Outcome::Refused(refusal) => format!("refused: {refusal}"),
    }
}

fn users(answer: &AuthAnswer) -> String {
    let names = |names: &[String]| format!("[{}]", names.join(" "));
    match answer {
        AuthAnswer::Done => "done".into(),
        AuthAnswer::Status { enabled, revision } => {
            format!("{} at {revision}", if *enabled { "enabled" } else { "disabled" })
        }
        AuthAnswer::User { roles } => format!("roles {}", names(roles)),
        AuthAnswer::Role { permissions } => {
            let shown: Vec<String> = permissions.iter().map(permission).collect();
            format!("permissions {}", names(&shown))
        }
        AuthAnswer::Names(all) => names(all),
    }
}

fn permission(permission: &AuthPermission) -> String {
    let (key, end) = (text(&permission.key), text(&permission.range_end));
    format!("{:?}:{key}..{end}", permission.verb())
}

fn result(result: &TxnResult) -> String {
    match result {
        TxnResult::Get(entry) => format!("got {}", maybe(entry.as_ref())),
        TxnResult::Range { entries, more } => {
            let shown: Vec<String> = entries.iter().map(entry).collect();
            format!("range [{}]{}", shown.join(" "), if *more { " more" } else { "" })
        }
        TxnResult::Put { previous: None } => "put".into(),
        TxnResult::Put { previous: Some(entry) } => format!("put over {}", self::entry(entry)),
        TxnResult::Delete { count, previous } => {
            let shown: Vec<String> = previous.iter().map(entry).collect();
            format!("deleted {count} [{}]", shown.join(" "))
        }
        TxnResult::Increment(number) => format!("number {number}"),
        TxnResult::Txn { succeeded, results } => {
            let shown: Vec<String> = results.iter().map(self::result).collect();
            let branch = if *succeeded { "then" } else { "else" };
            format!("txn {branch} ({})", shown.join(", "))
        }
    }
}

pub fn events(revision: &RevisionEvents) -> Vec<String> {
    let show = |event: &Event| {
        let previous = match &event.previous {
            Previous::Loaded(None) => String::new(),
            Previous::Loaded(Some(entry)) => format!(" was {}", self::entry(entry)),
            Previous::OnDemand => " was not loaded".into(),
        };
        match event.kind {
            EventKind::Put => {
                format!("  {} PUT {}{previous}", revision.revision, entry(&event.entry))
            }
            EventKind::Delete => {
                format!("  {} DELETE {}{previous}", revision.revision, text(&event.entry.key))
            }
        }
    };
    revision.events.iter().map(show).collect()
}

pub fn maybe(entry: Option<&Entry>) -> String {
    entry.map_or("nothing".into(), self::entry)
}

pub fn entry(entry: &Entry) -> String {
    let mut line = format!("{}={}@{}", text(&entry.key), text(&entry.value), entry.revision);
    if entry.version != 1 {
        line += &format!("/v{} of {}", entry.version, entry.create_revision);
    }
    if entry.lease.0 != 0 {
        line += &format!(" lease {}", entry.lease.0);
    }
    if entry.expires_at_ms != 0 {
        line += &format!(" until {}", entry.expires_at_ms);
    }
    line
}

pub fn lease(lease: &LeaseInfo) -> String {
    let LeaseInfo { id, ttl_ms, expires_at_ms, attached } = lease;
    format!("lease {} ttl {ttl_ms} until {expires_at_ms} attached {attached}", id.0)
}

pub fn lock(state: &LockState) -> String {
    let waiters = state.waiters;
    if !state.is_held() {
        return format!("free, {waiters} waiting");
    }
    let mut line = format!("held by {} token {}", text(&state.owner), state.token);
    if !state.value.is_empty() {
        line += &format!(" value {}", text(&state.value));
    }
    if state.lease.0 != 0 {
        line += &format!(" lease {}", state.lease.0);
    }
    format!("{line} until {}, {waiters} waiting", state.expires_at_ms)
}
