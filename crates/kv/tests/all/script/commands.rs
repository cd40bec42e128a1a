//! Reading the commands of a script.

use std::time::Duration;

use bytes::Bytes;
use holdfast_kv::Operation;
use holdfast_kv::command::*;
use holdfast_model::{ClientId, History, Span};

use crate::world::{World, configure};

pub fn command(world: &mut World, line: &str) -> Command {
    let mut rest = line.trim();
    let mut session = None;
    let mut user = None;
    loop {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        if let Some(ms) = word.strip_prefix('@') {
            world.clock_ms = int(ms);
        } else if let Some((client, tag)) = word.split_once(':').filter(|(c, _)| is_client(c)) {
            let (watermark, seq) = tag.split_once(':').expect("watermark:seq");
            session = Some((client_id(client), int(watermark), int(seq)));
        } else if let Some(name) = word.strip_prefix("as=") {
            let now = world.reader().auth().map_or(1, |auth| auth.revision());
            let (name, auth_revision) =
                name.split_once('@').map_or((name, now), |(name, at)| (name, int(at)));
            user = Some(User { name: bytes(name), auth_revision });
        } else {
            break;
        }
        rest = after.trim();
    }
    let mut command = Command::batch(rest.split(';').map(|part| operation(part.trim())));
    command.user = user;
    match session {
        Some((client, watermark, seq)) => command.in_session(client, watermark, seq),
        None => command,
    }
}

fn operation(line: &str) -> Operation {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, args) = words.split_first().expect("a command");
    let arg = |at: usize| *args.get(at).unwrap_or_else(|| panic!("{line}: argument {at}"));
    let options = Options(args);
    match *name {
        "put" => Operation::Put(put(arg(0), &options)),
        "del" => Operation::Delete(Delete {
            key: bytes(arg(0)),
            return_previous: options.has("prev"),
            condition: options.condition(),
        }),
        "delrange" => {
            let (start, end) = span(arg(0));
            Operation::DeleteRange(DeleteRange { start, end, return_previous: false })
        }
        "incr" => Operation::Increment(incr(arg(0), &options)),
        "txn" => Operation::Txn(txn(args)),
        "grant" => Operation::LeaseGrant(LeaseGrant { id: int(arg(0)), ttl_ms: millis(arg(1)) }),
        "renew" => Operation::Renew(Renew { leases: args.iter().map(|id| int(id)).collect() }),
        "revoke" => Operation::LeaseRevoke(LeaseRevoke { id: int(arg(0)) }),
        "lock" => Operation::LockAcquire(LockAcquire {
            name: bytes(arg(0)),
            owner: bytes(arg(1)),
            ttl_ms: options.get("ttl").map_or(0, millis),
            lease: options.get("lease").map_or(0, int),
            wait: options.has("wait"),
            value: options.get("value").map(bytes).unwrap_or_default(),
        }),
        "keep" => Operation::LockKeepAlive(LockKeepAlive {
            name: bytes(arg(0)),
            owner: bytes(arg(1)),
            token: options.get("token").map_or(0, int),
        }),
        "unlock" => Operation::LockRelease(LockRelease {
            name: bytes(arg(0)),
            owner: if arg(1) == "-" { Bytes::new() } else { bytes(arg(1)) },
            token: options.get("token").map_or(0, int),
            queue_only: options.has("queue-only"),
        }),
        "open" => Operation::SessionOpen(SessionOpen { client: client_bytes(arg(0)) }),
        "alive" => Operation::SessionKeepAlive(SessionKeepAlive {
            client: client_bytes(arg(0)),
            watermark: options.get("watermark").map_or(0, int),
        }),
        "close" => Operation::SessionClose(SessionClose { client: client_bytes(arg(0)) }),
        "expire" => Operation::Expire(Expire { keys_max: int(arg(0)) as u32 }),
        "compact" => Operation::Compact(Compact { revision: int(arg(0)) }),
        "configure" => Operation::Configure(configuration(&options)),
        "auth" => Operation::EtcdAuth(auth(arg(0)).into()),
        "user" => Operation::EtcdAuth(user(args, &options).into()),
        "role" => Operation::EtcdAuth(role(args).into()),
        "etcd" => Operation::Etcd(EtcdTxn {
            success: args.iter().map(|word| etcd_step(word).into()).collect(),
            ..EtcdTxn::default()
        }),
        "noop" => Operation::Noop(()),
        other => panic!("unknown command {other}"),
    }
}

fn put(pair: &str, options: &Options<'_>) -> Put {
    let (key, value) = pair.split_once('=').expect("K=V");
    Put {
        key: bytes(key),
        value: bytes(value),
        ttl_ms: options.get("ttl").map_or(0, millis),
        lease: options.get("lease").map_or(0, int),
        return_previous: options.has("prev"),
        condition: options.condition(),
    }
}

fn incr(pair: &str, options: &Options<'_>) -> Increment {
    let (key, delta) = pair.split_once('=').expect("K=N");
    Increment {
        key: bytes(key),
        delta: delta.parse().expect("a number"),
        ttl_ms: options.get("ttl").map_or(0, millis),
    }
}

fn txn(words: &[&str]) -> Txn {
    let mut txn = Txn::default();
    let mut part = 0;
    for word in words {
        match (*word, part) {
            ("then", _) => part = 1,
            ("else", _) => part = 2,
            (word, 0) => txn.compares.push(compare(word)),
            (word, 1) => txn.success.push(step(word).into()),
            (word, _) => txn.failure.push(step(word).into()),
        }
    }
    txn
}

fn compare(word: &str) -> Compare {
    let (subject, figure) = word.rsplit_once('.').expect("K.figure=N");
    let at = figure.find(['=', '!', '<', '>']).expect("a comparison");
    let (name, tail) = figure.split_at(at);
    let (comparison, given) = match tail.as_bytes()[0] {
        b'!' => (Comparison::NotEqual, &tail[1..]),
        b'>' => (Comparison::Greater, &tail[1..]),
        b'<' => (Comparison::Less, &tail[1..]),
        _ => (Comparison::Equal, &tail[1..]),
    };
    let target = match name {
        "rev" => CompareTarget::Revision(int(given)),
        "create" => CompareTarget::CreateRevision(int(given)),
        "version" => CompareTarget::Version(int(given)),
        "lease" => CompareTarget::Lease(int(given)),
        "value" => CompareTarget::Value(bytes(given)),
        "exists" => CompareTarget::Exists(given == "true"),
        other => panic!("unknown figure {other}"),
    };
    let (key, end) =
        if subject.contains("..") { span(subject) } else { (bytes(subject), "".into()) };
    Compare { key, end, comparison: comparison.into(), target: Some(target) }
}

fn step(word: &str) -> TxnOperation {
    let (name, rest) = word.split_once(':').expect("step:…");
    if name == "txn" {
        let (compares, branches) = rest.split_once('?').expect("txn:compare?then|else");
        let (then, otherwise) = branches.split_once('|').expect("then|else");
        let steps = |part: &str| {
            part.split('&').filter(|s| !s.is_empty()).map(|s| step(s).into()).collect()
        };
        return TxnOperation::Txn(Txn {
            compares: compares.split('&').filter(|c| !c.is_empty()).map(compare).collect(),
            success: steps(then),
            failure: steps(otherwise),
        });
    }
    let words: Vec<&str> = rest.split(':').collect();
    let options = Options(&words[1..]);
    match name {
        "get" => TxnOperation::Get(Get { key: bytes(words[0]) }),
        "range" => {
            let (start, end) = span(words[0]);
            let limit = words.get(1).map_or(0, |limit| int(limit) as u32);
            TxnOperation::Range(RangeRead { start, end, limit, keys_only: false })
        }
        "put" => TxnOperation::Put(put(words[0], &options)),
        "del" => TxnOperation::Delete(Delete {
            key: bytes(words[0]),
            return_previous: options.has("prev"),
            condition: None,
        }),
        "delrange" => {
            let (start, end) = span(words[0]);
            let return_previous = options.has("prev");
            TxnOperation::DeleteRange(DeleteRange { start, end, return_previous })
        }
        "incr" => TxnOperation::Increment(incr(words[0], &options)),
        other => panic!("unknown step {other}"),
    }
}

fn auth(what: &str) -> EtcdAuthChange {
    match what {
        "enable" => {
            EtcdAuthChange::Enable(AuthEnable { token_key: vec![7; AUTH_TOKEN_KEY_BYTES].into() })
        }
        "disable" => EtcdAuthChange::Disable(()),
        "status" => EtcdAuthChange::Status(()),
        other => panic!("unknown operation on users {other}"),
    }
}

fn user(words: &[&str], options: &Options<'_>) -> EtcdAuthChange {
    let arg = |at: usize| words.get(at).map(|word| name(word)).unwrap_or_default();
    let of = || AuthName { name: arg(1) };
    let pair = || AuthUserRole { user: arg(1), role: arg(2) };
    match words[0] {
        "add" => EtcdAuthChange::UserAdd(AuthUserAdd {
            name: arg(1),
            password_hash: options.get("hash").map(bytes).unwrap_or_default(),
            no_password: options.has("no-password"),
        }),
        "get" => EtcdAuthChange::UserGet(of()),
        "list" => EtcdAuthChange::UserList(()),
        "delete" => EtcdAuthChange::UserDelete(of()),
        "password" => EtcdAuthChange::UserChangePassword(AuthUserChangePassword {
            name: arg(1),
            password_hash: bytes(words[2]),
        }),
        "grant" => EtcdAuthChange::UserGrantRole(pair()),
        "revoke" => EtcdAuthChange::UserRevokeRole(pair()),
        other => panic!("unknown operation on users {other}"),
    }
}

fn role(words: &[&str]) -> EtcdAuthChange {
    let arg = |at: usize| words.get(at).map(|word| name(word)).unwrap_or_default();
    let of = || AuthName { name: arg(1) };
    let key = |at: usize| words.get(at).map(|word| bytes(word)).unwrap_or_default();
    let end = |at: usize| words.get(at).map(|word| range_end(word)).unwrap_or_default();
    match words[0] {
        "add" => EtcdAuthChange::RoleAdd(of()),
        "get" => EtcdAuthChange::RoleGet(of()),
        "list" => EtcdAuthChange::RoleList(()),
        "delete" => EtcdAuthChange::RoleDelete(of()),
        "grant" => {
            let verb = words.get(2).map(|verb| match *verb {
                "r" => AuthVerb::Read,
                "w" => AuthVerb::Write,
                _ => AuthVerb::ReadWrite,
            });
            let permission = verb.map(|verb| AuthPermission {
                verb: verb.into(),
                key: key(3),
                range_end: end(4),
            });
            EtcdAuthChange::RoleGrantPermission(AuthRoleGrant { role: arg(1), permission })
        }
        "revoke" => EtcdAuthChange::RoleRevokePermission(AuthRoleRevoke {
            role: arg(1),
            key: key(2),
            range_end: end(3),
        }),
        other => panic!("unknown operation on roles {other}"),
    }
}

fn etcd_step(word: &str) -> EtcdOperation {
    let (name, rest) = word.split_once(':').expect("step:…");
    let words: Vec<&str> = rest.split(':').collect();
    let options = Options(&words[1..]);
    let end = words.get(1).filter(|word| **word != "prev").map(|word| range_end(word));
    match name {
        "get" => EtcdOperation::Range(EtcdRange {
            key: bytes(words[0]),
            range_end: end.unwrap_or_default(),
            ..EtcdRange::default()
        }),
        "put" => {
            let (key, value) = words[0].split_once('=').expect("K=V");
            EtcdOperation::Put(EtcdPut {
                key: bytes(key),
                value: bytes(value),
                lease: options.get("lease").map_or(0, int),
                return_previous: options.has("prev"),
                ..EtcdPut::default()
            })
        }
        "del" => EtcdOperation::DeleteRange(EtcdDelete {
            key: bytes(words[0]),
            range_end: end.unwrap_or_default(),
            return_previous: options.has("prev"),
        }),
        other => panic!("unknown step {other}"),
    }
}

/// A range end of etcd's; `*` is no end.
pub fn range_end(word: &str) -> Bytes {
    if word == "*" { Bytes::from_static(b"\0") } else { bytes(word) }
}

/// A name; `-` is the empty one.
fn name(word: &str) -> String {
    if word == "-" { String::new() } else { word.to_owned() }
}

fn configuration(options: &Options<'_>) -> Configure {
    let history = match options.get("history").unwrap_or("manual") {
        "manual" => History::Manual,
        "latest" => History::Latest,
        other => match other.strip_prefix("rev:") {
            Some(count) => History::Revisions(int(count)),
            None => History::Duration(Duration::from_millis(millis(other))),
        },
    };
    let position = |text: &str| u64::from_str_radix(text, 16).expect("a position") << 48;
    let span = options.get("span").map_or(Span::ALL, |span| {
        let (start, end) = span.split_once("..").expect("A..B");
        let end = if end.is_empty() { 0 } else { position(end) };
        Span { start: position(start), end }
    });
    let mut configure = configure(span, options.get("epoch").map_or(1, int), history);
    configure.range = options.get("range").map_or(1, int);
    configure
}

/// Words like `name` and `name=value`.
pub struct Options<'a>(pub &'a [&'a str]);

impl<'a> Options<'a> {
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn condition(&self) -> Option<Condition> {
        if self.has("if-absent") {
            return Some(Condition::IfAbsent(()));
        }
        if let Some(revision) = self.get("if-rev") {
            return Some(Condition::IfRevision(int(revision)));
        }
        self.get("if-value").map(|value| Condition::IfValue(bytes(value)))
    }
}

pub fn bytes(word: &str) -> Bytes {
    Bytes::copy_from_slice(word.as_bytes())
}

pub fn span(word: &str) -> (Bytes, Bytes) {
    let (start, end) = word.split_once("..").expect("A..B");
    (bytes(start), bytes(end))
}

pub fn int(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is not a number"))
}

fn millis(word: &str) -> u64 {
    match (word.strip_suffix("ms"), word.strip_suffix('s'), word.strip_suffix('m')) {
        (Some(ms), _, _) => int(ms),
        (_, Some(seconds), _) => int(seconds) * 1_000,
        (_, _, Some(minutes)) => int(minutes) * 60_000,
        _ => panic!("{word:?} has no unit"),
    }
}

fn is_client(word: &str) -> bool {
    word.strip_prefix('c').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn client_id(word: &str) -> ClientId {
    ClientId(u128::from(int(word.strip_prefix('c').expect("a client like c1"))))
}

fn client_bytes(word: &str) -> Bytes {
    Bytes::copy_from_slice(&client_id(word).to_bytes())
}
