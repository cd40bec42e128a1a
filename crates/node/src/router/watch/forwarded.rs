//! A watch of a range that another node hosts: both ends of it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use holdfast_kv as kv;
use holdfast_model::{NodeId, RangeId, Revision};
use holdfast_runtime::interval;
use holdfast_wire::peer::v1::{ForwardWatchRequest, ForwardWatchResponse};
use holdfast_wire::v1;

use super::arm::{ArmItem, Filter, Local};
use crate::api::{ApiError, Call, Header};
use crate::auth::Identity;
use crate::convert;
use crate::errors;
use crate::router::Gateway;
use crate::router::attempt::not_hosted;
use crate::router::interval::Interval;

/// How often the serving node tells how far a quiet range has come.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Bytes of events of one answer; a single event may be larger.
const ANSWER_BYTES: usize = 1024 * 1024;

/// The asking node's end.
pub(super) struct Remote {
    range: RangeId,
    answers: BoxStream<'static, ForwardWatchResponse>,
    /// Events of a revision whose last part has not come yet.
    parts: Vec<kv::Event>,
}

/// Opens a watch at `node`; gives the header of what needs no delivery.
pub(super) async fn open(
    gateway: &Gateway,
    call: &Call,
    node: NodeId,
    range: RangeId,
    from: Option<Revision>,
    filter: &Filter,
) -> Result<(Remote, Header), ApiError> {
    let request = ForwardWatchRequest {
        range_id: range.0,
        user: call.identity.name().to_owned(),
        token: call.identity.token().map(Bytes::copy_from_slice),
        start: filter.interval.start.clone(),
        end: filter.interval.end.clone(),
        from_revision: from.map_or(0, |revision| revision.0),
        previous: filter.previous,
        no_puts: filter.no_puts,
        no_deletes: filter.no_deletes,
        ..ForwardWatchRequest::default()
    };
    let opening = async {
        let opened = gateway.parts.forward.watch(node, request).await;
        let mut answers = opened.map_err(|error| ApiError::NotHere(error.to_string()))?;
        let first = answers.next().await.ok_or_else(|| broken(range))?;
        Ok((answers, header_of(first)?))
    };
    let opened = call.deadline.limit(opening).await;
    let late = |_| ApiError::NotHere(format!("{node} did not open the watch in time"));
    let (answers, header) = opened.map_err(late)??;
    Ok((Remote { range, answers, parts: Vec::new() }, header))
}

fn header_of(answer: ForwardWatchResponse) -> Result<Header, ApiError> {
    match answer.error {
        Some(info) => Err(errors::from_info(info)),
        None => Ok(answer.header.as_ref().map(convert::header_from).unwrap_or_default()),
    }
}

fn broken(range: RangeId) -> ApiError {
    ApiError::NotHere(format!("the watch of range {} broke", range.0))
}

impl Remote {
    /// The next item. An error leaves the watch where its last item was.
    pub async fn next(&mut self) -> Result<ArmItem, ApiError> {
        loop {
            let mut answer = self.answers.next().await.ok_or_else(|| broken(self.range))?;
            let (events, more) = (std::mem::take(&mut answer.events), answer.more);
            let header = header_of(answer)?;
            for event in events {
                self.parts.push(convert::event_from(event).ok_or_else(|| broken(self.range))?);
            }
            if more {
                continue;
            }
            if self.parts.is_empty() {
                return Ok(ArmItem::Progress { header });
            }
            let events = std::mem::take(&mut self.parts);
            let revisions = vec![kv::RevisionEvents { revision: header.revision, events }];
            return Ok(ArmItem::Events { header, revisions });
        }
    }
}

/// The serving node's end: answers from a replica of this node until it breaks or nobody listens.
pub(in crate::router) fn serve_forwarded(
    gateway: &Gateway,
    request: ForwardWatchRequest,
) -> impl Stream<Item = ForwardWatchResponse> + Send + use<> {
    let gateway = gateway.clone();
    let beat = interval(PROGRESS_EVERY);
    let range = RangeId(request.range_id);
    let opened = gateway.parts.host.admit().and_then(|()| {
        let replica = gateway.parts.host.replica(range).ok_or_else(|| not_hosted(range))?;
        let from = (request.from_revision != 0).then_some(Revision(request.from_revision));
        let who = Identity::of_peer(&request.user, request.token.as_deref());
        Local::open(&gateway, replica, &who, from, &filter_of(request))
    });
    let (first, state) = match opened {
        Ok(local) => {
            let delivered = Revision(local.resume().0.saturating_sub(1));
            let header = local.header(&gateway, delivered);
            (vec![answer(&header, Vec::new(), false)], Some((gateway, local, beat)))
        }
        Err(error) => (vec![failed(&error)], None),
    };
    let rest = stream::unfold(state, |state| async move {
        let (gateway, mut local, mut beat) = state?;
        let answers = match local.next(&gateway, &mut None, &mut beat).await {
            Ok(ArmItem::Events { header, revisions }) => parts_of(&header, revisions),
            Ok(ArmItem::Progress { header }) => vec![answer(&header, Vec::new(), false)],
            Ok(ArmItem::Failed(error)) | Err(error) => {
                return Some((vec![failed(&error)], None));
            }
        };
        Some((answers, Some((gateway, local, beat))))
    });
    stream::iter([first]).chain(rest).flat_map(stream::iter)
}

fn filter_of(request: ForwardWatchRequest) -> Filter {
    Filter {
        interval: Interval { start: request.start, end: request.end },
        previous: request.previous,
        no_puts: request.no_puts,
        no_deletes: request.no_deletes,
    }
}

/// Answers for whole revisions, each cut into parts that fit a message.
fn parts_of(header: &Header, revisions: Vec<kv::RevisionEvents>) -> Vec<ForwardWatchResponse> {
    let mut answers = Vec::new();
    for kv::RevisionEvents { revision, events } in revisions {
        let header = Header { revision, ..*header };
        let (mut part, mut bytes) = (Vec::new(), 0);
        for event in events {
            let weight = event.weight();
            if !part.is_empty() && bytes + weight > ANSWER_BYTES {
                answers.push(answer(&header, std::mem::take(&mut part), true));
                bytes = 0;
            }
            bytes += weight;
            part.push(convert::event(event));
        }
        answers.push(answer(&header, part, false));
    }
    answers
}

fn answer(header: &Header, events: Vec<v1::WatchEvent>, more: bool) -> ForwardWatchResponse {
    ForwardWatchResponse {
        header: Some(convert::header(header)),
        events,
        more,
        ..ForwardWatchResponse::default()
    }
}

fn failed(error: &ApiError) -> ForwardWatchResponse {
    ForwardWatchResponse { error: Some(error.info()), ..ForwardWatchResponse::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: usize, value: usize) -> kv::Event {
        let key = Bytes::from(key.to_string());
        let entry = kv::Entry { key, value: vec![0; value].into(), ..Default::default() };
        kv::Event { kind: kv::EventKind::Put, entry, previous: kv::Previous::Loaded(None) }
    }

    async fn received(answers: Vec<ForwardWatchResponse>) -> Vec<kv::RevisionEvents> {
        let answers = stream::iter(answers).boxed();
        let mut remote = Remote { range: RangeId(1), answers, parts: Vec::new() };
        let mut revisions = Vec::new();
        while let Ok(ArmItem::Events { revisions: more, .. }) = remote.next().await {
            revisions.extend(more);
        }
        revisions
    }

    #[tokio::test]
    async fn a_revision_too_large_for_a_message_arrives_whole() {
        let revision =
            |revision, events| kv::RevisionEvents { revision: Revision(revision), events };
        let revisions = vec![
            revision(5, vec![event(1, 10)]),
            revision(6, (0..5).map(|key| event(key, 700 * 1024)).collect()),
            revision(9, vec![event(1, 3 * ANSWER_BYTES), event(2, 1)]),
        ];
        let answers = parts_of(&Header::default(), revisions.clone());
        assert!(answers.len() > revisions.len());
        assert!(answers.iter().all(|answer| answer.events.len() <= 2));
        assert_eq!(received(answers).await, revisions);
    }

    #[tokio::test]
    async fn a_revision_whose_last_part_never_came_is_not_delivered() {
        let revisions = vec![kv::RevisionEvents {
            revision: Revision(6),
            events: vec![event(1, 1), event(2, 2 * ANSWER_BYTES)],
        }];
        let mut answers = parts_of(&Header::default(), revisions);
        answers.pop();
        assert!(received(answers).await.is_empty());
    }
}
