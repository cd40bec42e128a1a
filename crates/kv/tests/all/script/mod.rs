//! The language of the golden scripts, and its runner.
//!
//! ```text
//! # The claim, in one sentence.
//!
//! [@MS] [SESSION] [as=USER[@N]] COMMAND [; COMMAND]…      one line is one entry; `;` makes a batch
//! ---
//! what comes of it
//! ```
//! Blocks are separated by empty lines; the entries of a block are applied in one call. `@MS` sets
//! range time, from then on. A session is `c1:WATERMARK:SEQ`, seq being that of the first command.
//! A user's command was admitted under revision N of the users, or under the last published one.
//!
//! ```text
//! put K=V [ttl=S] [lease=N] [if-absent] [if-rev=N] [if-value=V] [prev]
//! del K [if-…] [prev]     delrange A..B     incr K=N [ttl=S]
//! txn COMPARE… then STEP… else STEP…
//!     COMPARE  K.version=1  K.rev>3  K.create!0  K.lease=1  K.value=x  K.exists=true
//!              A..B.version=1
//!     STEP     get:K  range:A..B[:N]  put:K=V[:ttl=S][:lease=N][:prev]  del:K[:prev]
//!              delrange:A..B[:prev]  incr:K=N   txn:K.version=1?put:K=V|del:K
//! grant N TTL    renew N…    revoke N
//! lock NAME OWNER [ttl=S] [lease=N] [value=V] [wait]    keep NAME OWNER [token=N]
//! unlock NAME OWNER [token=N] [queue-only]
//! open C    alive C    close C
//! auth enable|disable|status
//! user add U [hash=H] [no-password]    user get|delete U    user list    user password U HASH
//! user grant|revoke U ROLE
//! role add|get|delete R    role list    role grant R VERB KEY [END]    role revoke R KEY [END]
//!     VERB     r  w  rw           END      a key; `*` is no end
//! etcd STEP…
//!     STEP     get:K[:END]  put:K=V[:lease=N][:prev]  del:K[:END][:prev]
//! expire N    compact N    noop    configure [span=A..B] [epoch=N] [history=…] [range=N]
//! ```
//! Lines that start with `?` read: `get K [rev=N]`, `count A..B`,
//! `scan [A..B] [rev=N] [limit=N] [keys] [reverse]`, `changes N..M`, `lease N`, `leases`,
//! `state NAME`, `due`, `sessions`, `point`,
//! `may USER read|write KEY [END]`, `may USER admin`, `token USER`,
//! `truth`, `compactable MS`, `restart` (power cut, then the log again).

mod commands;
mod questions;
mod show;

use holdfast_kv::Envelope;

use crate::world::World;

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
                    question => answers.extend(questions::read(&world.reader(), question)),
                }
            }
            None => {
                let command = commands::command(world, line);
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
        answers.push(show::outcome(outcome));
    }
    answers.extend(result.events.iter().flat_map(show::events));
    for grant in &result.grants {
        let (name, owner) = (show::text(&grant.name), show::text(&grant.owner));
        answers.push(format!("  grant {name} to {owner} token {}", grant.token));
    }
}
