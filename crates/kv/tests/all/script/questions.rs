//! Answering the questions of a script.

use bytes::Bytes;
use holdfast_kv::command::EtcdKeys;
use holdfast_kv::{At, AuthAccess, Reader, Result, ScanRequest};
use holdfast_model::{LeaseId, Revision};

use super::commands::{Options, bytes, int, range_end, span};
use super::show;

/// The answer to a question, line by line.
pub fn read(reader: &Reader, question: &str) -> Vec<String> {
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
        "get" => vec![show::maybe(reader.get(&bytes(arg(0)), at)?.as_ref())],
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
            let mut lines: Vec<String> = page.entries.iter().map(show::entry).collect();
            lines.extend(page.resume.map(|key| format!("more from {}", show::text(&key))));
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
            let mut lines: Vec<String> = page.revisions.iter().flat_map(show::events).collect();
            lines.push(format!("complete to {}", page.complete_to));
            lines
        }
        "lease" => vec![match reader.lease(LeaseId(int(arg(0))))? {
            Some(lease) => {
                let keys = reader.lease_keys(lease.id, &Bytes::new(), 100)?;
                let keys: Vec<String> = keys.iter().map(show::text).collect();
                format!("{} keys [{}]", show::lease(&lease), keys.join(" "))
            }
            None => "no lease".into(),
        }],
        "leases" => reader.leases(LeaseId(0), 100)?.iter().map(show::lease).collect(),
        "state" => vec![show::lock(&reader.lock(&bytes(arg(0)))?)],
        "due" => vec![reader.next_due_ms()?.map_or("nothing due".into(), |ms| format!("due {ms}"))],
        "may" => vec![may(reader, args)?],
        "token" => vec![match reader.auth()?.user(arg(0)) {
            Some(user) => format!("tokens from {}", user.tokens_from),
            None => "no user".into(),
        }],
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

/// Whether a user may do something, as `USER VERB KEY [END]`.
fn may(reader: &Reader, args: &[&str]) -> Result<String> {
    let key = args.get(2).map(|key| bytes(key)).unwrap_or_default();
    let end = args.get(3).map(|end| range_end(end)).unwrap_or_default();
    let keys = EtcdKeys::of(&key, &end);
    let access = match args[1] {
        "read" => AuthAccess::Read(keys),
        "write" => AuthAccess::Write(keys),
        _ => AuthAccess::Admin,
    };
    let user = if args[0] == "-" { "" } else { args[0] };
    Ok(match reader.auth()?.check(user, &access) {
        Ok(()) => "yes".into(),
        Err(refusal) => format!("no: {refusal}"),
    })
}
