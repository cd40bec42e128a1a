//! What locks and elections share: the keys under a name, each bound to somebody's lease, in the
//! order of their creation. The first one is whose turn it is.
//!
//! Clients that carry these recipes out themselves meet those who ask a service to, on the same
//! keys: names, compares and orders are those of etcd's package `concurrency`.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_kv::command::{
    Comparison, EtcdCompare, EtcdDelete, EtcdOperation, EtcdOrder, EtcdPut, EtcdRange, EtcdSort,
    EtcdStep, EtcdTarget, EtcdTxn,
};
use holdfast_kv::{Entry, EtcdOutcome, EtcdResult, Event};
use holdfast_model::Revision;
use holdfast_node::api::{ApiError, Header, Items, Watch, WatchItem};
use holdfast_runtime::spawn;

use crate::call::{Asked, Failure, Service, read_options, unexpected};

/// Time to live of the lease that is granted to a caller who brings none, seconds.
const SESSION_TTL_S: i64 = 60;

/// The keys under a name.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    service: Service,
    asked: Asked,
    prefix: Bytes,
}

/// One key of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub key: Bytes,
    /// The revision that created it.
    pub revision: Revision,
    /// The value it had before, where it was there.
    pub value: Option<Bytes>,
    /// Of the transaction that made or found it.
    pub header: Header,
    /// The first key of the queue at that moment.
    pub first: Option<Entry>,
}

impl Queue {
    /// The queue called `name`.
    pub fn of(service: &Service, asked: &Asked, name: &[u8]) -> Self {
        let prefix = [name, b"/"].concat().into();
        Self { service: service.clone(), asked: asked.clone(), prefix }
    }

    /// The lease of a caller: the one it brings, or one that is granted to it.
    pub async fn session(&self, lease: i64) -> Result<i64, Failure> {
        match lease {
            0 => Ok(self.service.grant_lease(&self.now(), 0, SESSION_TTL_S).await?.id),
            lease => Ok(lease),
        }
    }

    /// The key that belongs to a lease.
    pub fn key_of(&self, lease: i64) -> Bytes {
        let sign = if lease < 0 { "-" } else { "" };
        let number = format!("{sign}{:x}", lease.unsigned_abs());
        [self.prefix.as_ref(), number.as_bytes()].concat().into()
    }

    /// Takes a place with `value`, or finds the one that the lease has.
    pub async fn join(&self, lease: i64, value: Bytes) -> Result<Place, Failure> {
        let key = self.key_of(lease);
        let put = put(&key, value, lease);
        let found = EtcdOperation::Range(EtcdRange { key: key.clone(), ..EtcdRange::default() });
        let first = || EtcdOperation::Range(self.at_the_end(EtcdOrder::Ascend)).into();
        let txn = EtcdTxn {
            compares: vec![created_at(&key, 0)],
            success: vec![put, first()],
            failure: vec![found.into(), first()],
        };
        let (header, outcome) = self.service.run(&self.now(), txn, None).await?;
        let EtcdOutcome { succeeded, revision, mut results, .. } = outcome;
        let first = entry_of(results.pop())?;
        if succeeded {
            return Ok(Place { key, revision, value: None, header, first });
        }
        let found = entry_of(results.pop())?.ok_or_else(|| unexpected("place", &"no key"))?;
        let (revision, value) = (found.create_revision, Some(found.value));
        Ok(Place { key, revision, value, header, first })
    }

    /// Waits until nobody is left who came before `revision`.
    pub async fn turn(&self, revision: Revision) -> Result<(), Failure> {
        let before = i64::try_from(revision.0).unwrap_or(i64::MAX) - 1;
        loop {
            let range = self.at_the_end(EtcdOrder::Descend);
            let range = EtcdRange { max_create_revision: before, ..range };
            let (header, last) = self.read(range).await?;
            let Some(last) = last else { return Ok(()) };
            let mut follow = self.follow(Watched::Key(last.key), header.revision).await?;
            while let Some((_, event)) = follow.next().await? {
                if event.kind == holdfast_kv::EventKind::Delete {
                    break;
                }
            }
        }
    }

    /// The first key, if there is any.
    pub async fn first(&self) -> Result<(Header, Option<Entry>), Failure> {
        self.read(self.at_the_end(EtcdOrder::Ascend)).await
    }

    /// One key, if it is there.
    pub async fn get(&self, key: Bytes) -> Result<(Header, Option<Entry>), Failure> {
        self.read(EtcdRange { key, ..EtcdRange::default() }).await
    }

    /// Follows the changes of a key or of the queue, from a revision on.
    pub async fn follow(&self, watched: Watched, from: Revision) -> Result<Follow, Failure> {
        let (key, prefix) = match watched {
            Watched::Key(key) => (key, false),
            Watched::All => (self.prefix.clone(), true),
        };
        let Asked { call, keyspace, .. } = self.now();
        let watch = Watch { keyspace, key, prefix, from, ..Watch::default() };
        let mut items = self.service.gateway.watch(&call, watch);
        match items.next().await {
            Some(Ok(WatchItem::Created { .. })) => Ok(Follow { items, waiting: VecDeque::new() }),
            Some(Err(error)) => Err(error.into()),
            other => Err(unexpected("watch", &other)),
        }
    }

    /// Carries `steps` out if `key` is still the one created at `revision`; whether it is.
    pub async fn if_there(
        &self,
        key: &Bytes,
        revision: i64,
        steps: Vec<EtcdStep>,
    ) -> Result<(Header, bool), Failure> {
        let compares = vec![created_at(key, revision)];
        let txn = EtcdTxn { compares, success: steps, ..EtcdTxn::default() };
        let (header, outcome) = self.service.run(&self.now(), txn, None).await?;
        Ok((header, outcome.succeeded))
    }

    /// Gives `place` up when the guard is dropped, unless it is kept.
    pub fn guard(&self, place: &Place) -> Guard {
        let revision = i64::try_from(place.revision.0).unwrap_or(i64::MAX);
        Guard(Some((self.clone(), place.key.clone(), revision)))
    }

    async fn read(&self, range: EtcdRange) -> Result<(Header, Option<Entry>), Failure> {
        let success = vec![EtcdOperation::Range(range).into()];
        let txn = EtcdTxn { success, ..EtcdTxn::default() };
        let reads = Some(read_options(false));
        let (header, mut outcome) = self.service.run(&self.now(), txn, reads).await?;
        Ok((header, entry_of(outcome.results.pop())?))
    }

    /// The key that was created first, or last.
    fn at_the_end(&self, order: EtcdOrder) -> EtcdRange {
        EtcdRange {
            key: self.prefix.clone(),
            range_end: after(&self.prefix),
            limit: 1,
            order: order.into(),
            sort: EtcdSort::Create.into(),
            ..EtcdRange::default()
        }
    }

    /// The call, with the time of a step of it: how long one waits for its turn is not bounded.
    fn now(&self) -> Asked {
        let mut asked = self.asked.clone();
        asked.call.deadline = self.service.deadline_of_one();
        asked
    }
}

/// A place that is given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard(Option<(Queue, Bytes, i64)>);

impl Guard {
    /// Keeps the place.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some((queue, key, revision)) = self.0.take() else { return };
        // Whoever waited has gone; if this fails too, the place ends with its lease.
        spawn(async move {
            let _ = queue.if_there(&key, revision, vec![delete(&key)]).await;
        });
    }
}

/// What is followed.
#[derive(Clone, Debug)]
pub(crate) enum Watched {
    Key(Bytes),
    /// Every key of the queue.
    All,
}

/// Changes, one by one.
pub(crate) struct Follow {
    items: Items<WatchItem>,
    waiting: VecDeque<(Header, Event)>,
}

impl Follow {
    /// The next change; `None` where history was given up before it was read: look again.
    pub async fn next(&mut self) -> Result<Option<(Header, Event)>, Failure> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            match self.items.next().await {
                Some(Ok(WatchItem::Events { header, revisions, .. })) => {
                    let events = revisions.into_iter().flat_map(|revision| revision.events);
                    self.waiting.extend(events.map(|event| (header, event)));
                }
                Some(Ok(WatchItem::Created { .. } | WatchItem::Progress { .. })) => {}
                Some(Ok(WatchItem::Canceled { error: ApiError::Compacted { .. }, .. })) => {
                    return Ok(None);
                }
                Some(Ok(WatchItem::Canceled { error, .. }) | Err(error)) => {
                    return Err(error.into());
                }
                None => return Err(unexpected("watch", &"its end")),
            }
        }
    }
}

/// Puts a key of a queue.
pub(crate) fn put(key: &Bytes, value: Bytes, lease: i64) -> EtcdStep {
    let (key, lease) = (key.clone(), lease.cast_unsigned());
    EtcdOperation::Put(EtcdPut { key, value, lease, ..EtcdPut::default() }).into()
}

/// Removes a key of a queue.
pub(crate) fn delete(key: &Bytes) -> EtcdStep {
    EtcdOperation::DeleteRange(EtcdDelete { key: key.clone(), ..EtcdDelete::default() }).into()
}

fn created_at(key: &Bytes, revision: i64) -> EtcdCompare {
    EtcdCompare {
        key: key.clone(),
        comparison: Comparison::Equal.into(),
        target: Some(EtcdTarget::CreateRevision(revision)),
        ..EtcdCompare::default()
    }
}

/// The one entry of a range, if there is any.
fn entry_of(result: Option<EtcdResult>) -> Result<Option<Entry>, Failure> {
    match result {
        Some(EtcdResult::Range { entries, .. }) => Ok(entries.into_iter().next()),
        other => Err(unexpected("range", &other)),
    }
}

/// The first key after those that start with `prefix`, which ends in `/`.
fn after(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_name_are_those_with_its_slash_in_front() {
        assert_eq!(after(b"name/"), Bytes::from_static(b"name0"));
    }
}
