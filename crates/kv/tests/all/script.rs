//! The language of the golden scripts, and its runner.
//!
//! ```text
//! # The claim, in one sentence.
//!
//! [@MS] [SESSION] [as=USER] COMMAND [; COMMAND]…      one line is one entry; `;` makes it a batch
//! ---
//! what comes of it
//! ```
//! Blocks are separated by empty lines; the entries of a block are applied in one call. `@MS` sets
//! range time, from then on. A session is `c1:WATERMARK:SEQ`, seq being that of the first command.
//!
//! ```text
//! put K=V [ttl=S] [lease=N] [if-absent] [if-rev=N] [if-value=V] [prev]
//! del K [if-…] [prev]     delrange A..B     incr K=N [ttl=S]
//! txn COMPARE… then STEP… else STEP…
//!     COMPARE  K.version=1  K.rev>3  K.create!=0  K.lease=1  K.value=x  K.exists=true  A..B.version=1
//!     STEP     get:K  range:A..B[:N]  put:K=V[:ttl=S][:lease=N][:prev]  del:K[:prev]
//!              delrange:A..B[:prev]  incr:K=N   txn:K.version=1?put:K=V|del:K
//! grant N TTL    renew N…    revoke N
//! lock NAME OWNER [ttl=S] [lease=N] [value=V] [wait]    keep NAME OWNER [token=N]
//! unlock NAME OWNER [token=N]
//! open C    alive C    close C
//! expire N    compact N    noop    configure [span=A..B] [epoch=N] [history=…] [range=N]
//! ```
//! Lines that start with `?` read: `get K [rev=N]`, `scan [A..B] [rev=N] [limit=N] [keys] [reverse]`,
//! `count A..B`, `changes N..M`, `lease N`, `leases`, `state NAME`, `due`, `sessions`, `point`,
//! `truth`, `compactable MS`, `restart` (power cut, then the log again).

use bytes::Bytes;
use holdfast_kv::command::*;
use holdfast_kv::*;
use holdfast_model::{ClientId, History, LeaseId, Revision, Span};

use crate::world::{World, configure};

/// Runs a script and gives it back with the answers that came.
pub fn run(text: &str) -> String {
    let mut world = World::bare();
    let mut blocks = Vec::new();
    for block in text.trim_end().split("\n\n") {
        let given: Vec<&str> = block.lines().take_while(|line| *line != "---").collect();
        if given.iter().all(|line| line.starts_with('#')) {
            blocks.push(given.join("\n"));
            continue;
        }
        let answers = block_answers(&mut world, &given);
        blocks.push(format!("{}\n---\n{}", given.join("\n"), answers.join("\n")));
    }
    blocks.join("\n\n") + "\n"
}

fn block_answers(world: &mut World, lines: &[&str]) -> Vec<String> {
    let mut answers = Vec::new();
    let mut envelopes = Vec::new();
    for line in lines.iter().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('?') {
            Some(question) => {
                flush(world, &mut envelopes, &mut answers);
                match question.trim() {
                    "restart" => {
                        let before = std::mem::replace(world, World::bare());
                        *world = before.after_power_cut(2);
                        answers.push("restarted".into());
                    }
                    question => answers.extend(read(&world.reader(), question)),
                }
            }
            None => {
                let command = command(world, line);
                envelopes.push(world.envelope(vec![command]));
            }
        }
    }
    flush(world, &mut envelopes, &mut answers);
    answers
}

fn flush(world: &mut World, envelopes: &mut Vec<Envelope>, answers: &mut Vec<String>) {
    if envelopes.is_empty() {
        return;
    }
    let result = world.apply(std::mem::take(envelopes));
    for outcome in result.outcomes.iter().flatten().flatten() {
        answers.push(show_outcome(outcome));
    }
    answers.extend(result.events.iter().flat_map(show_events));
    for grant in &result.grants {
        let (name, owner) = (text(&grant.name), text(&grant.owner));
        answers.push(format!("  grant {name} to {owner} token {}", grant.token));
    }
}

// --- reading commands -------------------------------------------------------------------------

fn command(world: &mut World, line: &str) -> Command {
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
            user = Some(User { name: bytes(name), auth_revision: 1 });
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
        b'!' => (Comparison::NotEqual, &tail[2..]),
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

fn configuration(options: &Options<'_>) -> Configure {
    let history = match options.get("history").unwrap_or("manual") {
        "manual" => History::Manual,
        "latest" => History::Latest,
        other => match other.strip_prefix("rev:") {
            Some(count) => History::Revisions(int(count)),
            None => History::Duration(std::time::Duration::from_millis(millis(other))),
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

struct Options<'a>(&'a [&'a str]);

impl<'a> Options<'a> {
    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
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

fn bytes(word: &str) -> Bytes {
    Bytes::copy_from_slice(word.as_bytes())
}

fn span(word: &str) -> (Bytes, Bytes) {
    let (start, end) = word.split_once("..").expect("A..B");
    (bytes(start), bytes(end))
}

fn int(word: &str) -> u64 {
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

// --- reading the state ------------------------------------------------------------------------

fn read(reader: &Reader, question: &str) -> Vec<String> {
    let words: Vec<&str> = question.split_whitespace().collect();
    let (name, args) = words.split_first().expect("a question");
    match answer(reader, name, args) {
        Ok(lines) => lines,
        Err(error) => vec![format!("error: {error}")],
    }
}

fn answer(reader: &Reader, name: &str, args: &[&str]) -> Result<Vec<String>> {
    let options = Options(args);
    let arg = |at: usize| *args.get(at).unwrap_or_else(|| panic!("{name}: argument {at}"));
    let at = options.get("rev").map_or(At::Current, |rev| At::Revision(Revision(int(rev))));
    Ok(match name {
        "get" => vec![show_maybe(reader.get(&bytes(arg(0)), at)?.as_ref())],
        "scan" => {
            let (start, end) = args
                .first()
                .filter(|a| a.contains(".."))
                .map_or_else(Default::default, |a| span(a));
            let mut request = ScanRequest::new(start, end);
            request.at = at;
            request.limit = options.get("limit").map_or(0, |n| int(n) as usize);
            request.keys_only = options.has("keys");
            request.reverse = options.has("reverse");
            let page = reader.scan(&request)?;
            let mut lines: Vec<String> = page.entries.iter().map(show_entry).collect();
            lines.extend(page.resume.map(|key| format!("more from {}", text(&key))));
            lines
        }
        "count" => {
            let (start, end) = span(arg(0));
            vec![format!("{} keys", reader.count(&start, &end, at)?.count)]
        }
        "changes" => {
            let (since, upto) = arg(0).split_once("..").expect("N..M");
            let (since, upto) = (Revision(int(since)), Revision(int(upto)));
            let page = reader.changes(since, upto, usize::MAX, true)?;
            let mut lines: Vec<String> = page.revisions.iter().flat_map(show_events).collect();
            lines.push(format!("complete to {}", page.complete_to));
            lines
        }
        "lease" => vec![match reader.lease(LeaseId(int(arg(0))))? {
            Some(lease) => {
                let keys = reader.lease_keys(lease.id, &Bytes::new(), 100)?;
                let keys: Vec<String> = keys.iter().map(text).collect();
                format!("{} keys [{}]", show_lease(&lease), keys.join(" "))
            }
            None => "no lease".into(),
        }],
        "leases" => reader.leases(LeaseId(0), 100)?.iter().map(show_lease).collect(),
        "state" => vec![show_lock(&reader.lock(&bytes(arg(0)))?)],
        "due" => vec![reader.next_due_ms()?.map_or("nothing due".into(), |ms| format!("due {ms}"))],
        "sessions" => {
            let stats = reader.session_stats();
            vec![format!("{} sessions, {} answers", stats.sessions, stats.answers)]
        }
        "point" => {
            let point = reader.point();
            vec![format!("revision {} clock {}", point.revision, point.clock_ms)]
        }
        "truth" => vec![reader.truth().map_or("no truth".into(), |truth| format!("{truth:?}"))],
        "compactable" => vec![match reader.compactable(int(arg(0))) {
            Some(revision) => format!("compactable to {revision}"),
            None => "nothing compactable".into(),
        }],
        other => panic!("unknown question {other}"),
    })
}

// --- showing ----------------------------------------------------------------------------------

fn text(bytes: &Bytes) -> String {
    bytes.escape_ascii().to_string()
}

fn show_outcome(outcome: &Outcome) -> String {
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
                line += &format!(" previous {}", show_entry(previous));
            }
            line + if m.more { " more" } else { "" }
        }
        Outcome::ConditionFailed { current } => {
            format!("condition failed, current {}", show_maybe(current.as_ref()))
        }
        Outcome::Txn(txn) => {
            let branch = if txn.succeeded { "then" } else { "else" };
            let at = if txn.changed { "changed at" } else { "unchanged at" };
            let results: Vec<String> = txn.results.iter().map(show_result).collect();
            let lost = if txn.results_lost { " results lost" } else { "" };
            format!("txn {branch} {at} {}{lost}: {}", txn.revision, results.join(", "))
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
            format!("{standing} until {}{changed}; {}", lock.expires_at_ms, show_lock(&lock.state))
        }
        Outcome::Session { idle_max_ms: 0 } => "session closed".into(),
        Outcome::Session { idle_max_ms } => format!("session open, idle {idle_max_ms}"),
        Outcome::Expired { keys, more } => {
            format!("expired {keys} keys{}", if *more { ", more due" } else { "" })
        }
        Outcome::Compacted { oldest } => format!("compacted, oldest {oldest}"),
        Outcome::Configured(truth) => format!("configured {} epoch {}", truth.span, truth.epoch),
        Outcome::Noop => "nothing".into(),
        Outcome::Refused(refusal) => format!("refused: {refusal}"),
    }
}

fn show_result(result: &TxnResult) -> String {
    match result {
        TxnResult::Get(entry) => format!("got {}", show_maybe(entry.as_ref())),
        TxnResult::Range { entries, more } => {
            let shown: Vec<String> = entries.iter().map(show_entry).collect();
            format!("range [{}]{}", shown.join(" "), if *more { " more" } else { "" })
        }
        TxnResult::Put { previous: None } => "put".into(),
        TxnResult::Put { previous: Some(entry) } => format!("put over {}", show_entry(entry)),
        TxnResult::Delete { count, previous } => {
            let shown: Vec<String> = previous.iter().map(show_entry).collect();
            format!("deleted {count} [{}]", shown.join(" "))
        }
        TxnResult::Increment(number) => format!("number {number}"),
        TxnResult::Txn { succeeded, results } => {
            let shown: Vec<String> = results.iter().map(show_result).collect();
            let branch = if *succeeded { "then" } else { "else" };
            format!("txn {branch} ({})", shown.join(", "))
        }
    }
}

fn show_events(revision: &RevisionEvents) -> Vec<String> {
    let show = |event: &Event| {
        let previous = match &event.previous {
            Previous::Loaded(None) => String::new(),
            Previous::Loaded(Some(entry)) => format!(" was {}", show_entry(entry)),
            Previous::OnDemand => " was not loaded".into(),
        };
        match event.kind {
            EventKind::Put => {
                format!("  {} PUT {}{previous}", revision.revision, show_entry(&event.entry))
            }
            EventKind::Delete => {
                format!("  {} DELETE {}{previous}", revision.revision, text(&event.entry.key))
            }
        }
    };
    revision.events.iter().map(show).collect()
}

fn show_maybe(entry: Option<&Entry>) -> String {
    entry.map_or("nothing".into(), show_entry)
}

fn show_entry(entry: &Entry) -> String {
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

fn show_lease(lease: &LeaseInfo) -> String {
    let LeaseInfo { id, ttl_ms, expires_at_ms, attached } = lease;
    format!("lease {} ttl {ttl_ms} until {expires_at_ms} attached {attached}", id.0)
}

fn show_lock(state: &LockState) -> String {
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
