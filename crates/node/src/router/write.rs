//! Mutations: one, by prefix, and in batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_kv as kv;
use holdfast_kv::command::{
    DeleteRange, EtcdAlarmAction, SessionTag as KvSessionTag, Txn, TxnOperation, User,
};
use holdfast_model::{RangeId, position};

use super::interval::Interval;
use super::{Gateway, Place};
use crate::api::{
    Answer, ApiError, BatchWrite, Call, DeletePrefix, Deleted, Header, ItemWritten, SessionTag,
    Write,
};
use crate::auth::{Keys, Verb};
use crate::limits::at_most;

/// How often items of a batch follow a range that was split under them.
const BATCH_ROUNDS_MAX: usize = 3;

impl Gateway {
    /// Carries out one mutation or transaction; see [`crate::api::Kv::write`].
    pub async fn write(
        &self,
        call: &Call,
        request: Write,
    ) -> Result<Answer<kv::Outcome>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        let Write { keyspace, operation, session } = request;
        self.allow_operation(call, &keyspace, &operation)?;
        self.fits_kind(&keyspace, &operation)?;
        let place = match &operation {
            kv::Operation::Txn(txn) => self.place_of_txn(&keyspace, txn)?,
            kv::Operation::Etcd(_) | kv::Operation::EtcdAuth(_) | kv::Operation::EtcdAlarm(_) => {
                self.etcd_range(&keyspace)?
            }
            kv::Operation::Compact(_) => self.only_range(&keyspace)?,
            other => Place::Position { keyspace: &keyspace, position: position(key_of(other)?) },
        };
        let seq = session.map_or(0, |tag| tag.seq);
        let items = vec![kv::Item { seq, operation: Some(operation) }];
        let command = self.command(call, session, items)?;
        let proposed = self.propose(call, place, command).await?;
        let (header, value) = proposed.single()?;
        Ok(Answer { header: with_revision(header, &value), value })
    }

    /// Builds a command and checks it against the limits.
    pub(super) fn command(
        &self,
        call: &Call,
        session: Option<SessionTag>,
        items: Vec<kv::Item>,
    ) -> Result<kv::Command, ApiError> {
        let name = call.identity.name();
        let command = kv::Command {
            session: session.map(|tag| KvSessionTag::new(tag.client, tag.watermark)),
            items,
            user: (!name.is_empty())
                .then(|| User { name: name.to_owned().into(), auth_revision: 0 }),
        };
        self.validate(&command)?;
        Ok(command)
    }

    /// One operation that no session covers, or one whose number is the session's.
    pub(super) async fn propose_one(
        &self,
        call: &Call,
        place: Place<'_>,
        session: Option<SessionTag>,
        operation: impl Into<kv::Operation>,
    ) -> Result<(Header, kv::Outcome), ApiError> {
        let seq = session.map_or(0, |tag| tag.seq);
        let items = vec![kv::Item { seq, operation: Some(operation.into()) }];
        let command = self.command(call, session, items)?;
        self.propose(call, place, command).await?.single()
    }

    fn allow_operation(
        &self,
        call: &Call,
        keyspace: &str,
        operation: &kv::Operation,
    ) -> Result<(), ApiError> {
        match operation {
            kv::Operation::Txn(txn) => self.allow_txn(call, keyspace, txn),
            kv::Operation::Etcd(txn) => self.allow_etcd(call, keyspace, txn),
            kv::Operation::EtcdAlarm(alarm) if alarm.action() == EtcdAlarmAction::List => {
                self.allow(call, Verb::Observe, keyspace, Keys::None)
            }
            kv::Operation::Compact(_)
            | kv::Operation::EtcdAuth(_)
            | kv::Operation::EtcdAlarm(_) => {
                self.allow(call, Verb::Administer, keyspace, Keys::None)
            }
            other => self.allow(call, Verb::Write, keyspace, Keys::One(key_of(other)?)),
        }
    }

    fn allow_txn(&self, call: &Call, keyspace: &str, txn: &Txn) -> Result<(), ApiError> {
        for compare in &txn.compares {
            let keys = keys(&compare.key, &compare.end);
            self.allow(call, Verb::Read, keyspace, keys)?;
        }
        for step in txn.success.iter().chain(&txn.failure) {
            match &step.operation {
                Some(TxnOperation::Txn(nested)) => self.allow_txn(call, keyspace, nested)?,
                Some(operation) => {
                    let (verb, keys) = access_of(operation);
                    self.allow(call, verb, keyspace, keys)?;
                }
                None => return Err(ApiError::Invalid("operation of a transaction: none".into())),
            }
        }
        Ok(())
    }

    /// Where a transaction belongs: where its first key is. The others must be in the same range.
    fn place_of_txn<'a>(&self, keyspace: &'a str, txn: &Txn) -> Result<Place<'a>, ApiError> {
        let mut named = Named::default();
        named.collect(txn);
        // An interval means the keys of the transaction's own range; it decides only where no
        // single key does.
        let positions = if named.keys.is_empty() { &named.intervals } else { &named.keys };
        let Some(&first) = positions.first() else {
            return Err(ApiError::Invalid("keys of a transaction: at least 1, given 0".into()));
        };
        let place = Place::Position { keyspace, position: first };
        let map = self.parts.map.peek();
        if let Ok(range) = map.lookup(keyspace, first)
            && let Some(other) = positions.iter().find(|p| !range.span.contains(**p))
        {
            let text = format!(
                "keys of a transaction must lie in one range (give them the same {{tag}}): \
                 positions {first:016x} and {other:016x} do not"
            );
            return Err(ApiError::Invalid(text));
        }
        Ok(place)
    }

    /// Deletes by prefix; see [`crate::api::Kv::delete_prefix`].
    pub async fn delete_prefix(
        &self,
        call: &Call,
        request: DeletePrefix,
    ) -> Result<Answer<Deleted>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        let DeletePrefix { keyspace, prefix, session } = request;
        self.parts.limits.bound("prefix bytes", &prefix)?;
        let interval = Interval::prefix(&prefix);
        let keys = Keys::Interval { start: &interval.start, end: &interval.end };
        self.allow(call, Verb::Write, &keyspace, keys)?;
        let ranges = self.ranges_of_prefix(&keyspace, &prefix)?;
        let delete = DeleteRange {
            start: interval.start.clone(),
            end: interval.end.clone(),
            return_previous: false,
        };
        let one = |range: RangeId| {
            let place = Place::Range { keyspace: &keyspace, range };
            self.propose_one(call, place, session, delete.clone())
        };
        let answers = join_all(ranges.iter().map(|range| one(*range))).await;
        self.sum_up(answers)
    }

    /// One answer for all ranges: the sum, or the gravest error.
    fn sum_up(
        &self,
        answers: Vec<Result<(Header, kv::Outcome), ApiError>>,
    ) -> Result<Answer<Deleted>, ApiError> {
        let mut deleted = Deleted::default();
        let mut header = self.plain_header();
        let several = answers.len() > 1;
        let mut failed: Option<ApiError> = None;
        for answer in answers {
            match answer {
                Ok((found, outcome)) => {
                    if let kv::Outcome::Applied(mutation) = &outcome {
                        deleted.count += mutation.count;
                        deleted.more |= mutation.more;
                    }
                    if !several {
                        header = with_revision(found, &outcome);
                    }
                }
                Err(error) if failed.as_ref().is_some_and(ApiError::is_unknown) => drop(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Ok(Answer { header, value: deleted }),
            Some(error) if deleted.count == 0 => Err(error),
            // Some ranges have deleted, others have not: neither done nor certainly not done.
            Some(error) => Err(ApiError::OutcomeUnknown {
                reason: format!(
                    "{} keys were deleted, then a range failed: {error}",
                    deleted.count
                ),
                deadline: error.is_late(),
            }),
        }
    }

    /// Carries out many writes; see [`crate::api::Kv::batch_write`].
    pub async fn batch_write(
        &self,
        call: &Call,
        request: BatchWrite,
    ) -> Result<Answer<Vec<ItemWritten>>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        let BatchWrite { keyspace, items, session } = request;
        at_most("batch operations", self.parts.limits.batch_operations_max, items.len())?;
        if items.is_empty() {
            return Err(ApiError::Invalid("batch operations: at least 1, given 0".into()));
        }
        let mut positions = Vec::with_capacity(items.len());
        for item in &items {
            self.allow_operation(call, &keyspace, &item.operation)?;
            self.fits_kind(&keyspace, &item.operation)?;
            positions.push(position(key_of(&item.operation)?));
        }
        let items: Vec<kv::Item> = items
            .into_iter()
            .map(|item| kv::Item { seq: item.seq, operation: Some(item.operation) })
            .collect();
        // Checked as a whole first: a batch that breaks a limit anywhere changes nothing.
        let whole = self.command(call, session, items)?;
        self.known_keyspace(&keyspace)?;
        let value = self.write_groups(call, &keyspace, whole, &positions).await;
        Ok(Answer { header: self.plain_header(), value })
    }

    /// Sends each range its items, all ranges at once; items whose range turned out to be another
    /// (it was split meanwhile) are sent again.
    async fn write_groups(
        &self,
        call: &Call,
        keyspace: &str,
        whole: kv::Command,
        positions: &[u64],
    ) -> Vec<ItemWritten> {
        let lost = || Err(ApiError::Internal("an item of a batch has no result".into()));
        let mut results: Vec<_> = positions.iter().map(|_| lost()).collect();
        let mut open: Vec<usize> = (0..positions.len()).collect();
        for _ in 0..BATCH_ROUNDS_MAX {
            let groups = self.group(keyspace, positions, &open);
            let sent = groups
                .into_values()
                .map(|members| self.write_group(call, keyspace, &whole, positions, members));
            for (members, outcomes) in join_all(sent).await {
                for (index, outcome) in members.into_iter().zip(outcomes) {
                    results[index] = outcome;
                }
            }
            let moved = |index: &usize| results[*index].as_ref().is_err_and(ApiError::is_elsewhere);
            open.retain(moved);
            if open.is_empty() || call.direct || call.deadline.has_passed() {
                break;
            }
        }
        results
    }

    /// Sends one range its items.
    async fn write_group(
        &self,
        call: &Call,
        keyspace: &str,
        whole: &kv::Command,
        positions: &[u64],
        members: Vec<usize>,
    ) -> (Vec<usize>, Vec<ItemWritten>) {
        let items = members.iter().filter_map(|index| whole.items.get(*index)).cloned().collect();
        let (session, user) = (whole.session.clone(), whole.user.clone());
        let command = kv::Command { session, items, user };
        let first = members.first().map_or(0, |index| positions[*index]);
        let place = Place::Position { keyspace, position: first };
        let outcomes = match self.propose(call, place, command).await {
            Ok(proposed) if proposed.items.len() == members.len() => {
                let header = proposed.header;
                let answer =
                    |value: kv::Outcome| Answer { header: with_revision(header, &value), value };
                proposed.items.into_iter().map(|item| item.map(answer)).collect()
            }
            Ok(proposed) => {
                let text = format!("{} outcomes of {} items", proposed.items.len(), members.len());
                vec![Err(ApiError::Internal(text)); members.len()]
            }
            Err(error) => vec![Err(error); members.len()],
        };
        (members, outcomes)
    }

    /// The indexes `open` of `positions` by range. Positions that have no range in this copy of
    /// the map are a group of their own each, to be looked up until they have one.
    pub(super) fn group(
        &self,
        keyspace: &str,
        positions: &[u64],
        open: &[usize],
    ) -> BTreeMap<(RangeId, usize), Vec<usize>> {
        let map = self.parts.map.peek();
        let mut groups: BTreeMap<(RangeId, usize), Vec<usize>> = BTreeMap::new();
        for index in open {
            let group = match map.lookup(keyspace, positions[*index]) {
                Ok(range) => (range.id, 0),
                Err(_) => (RangeId(u64::MAX), *index),
            };
            groups.entry(group).or_default().push(*index);
        }
        groups
    }
}

/// The header of a change: at the revision it made.
pub(super) fn with_revision(header: Header, outcome: &kv::Outcome) -> Header {
    let revision = match outcome {
        kv::Outcome::Applied(mutation) => mutation.revision,
        kv::Outcome::Txn(txn) => txn.revision,
        kv::Outcome::Etcd(etcd) => etcd.revision,
        kv::Outcome::Lease(lease) => lease.revision,
        _ => header.revision,
    };
    Header { revision, ..header }
}

/// The key a single operation is about.
fn key_of(operation: &kv::Operation) -> Result<&Bytes, ApiError> {
    match operation {
        kv::Operation::Put(put) => Ok(&put.key),
        kv::Operation::Delete(delete) => Ok(&delete.key),
        kv::Operation::Increment(increment) => Ok(&increment.key),
        _ => Err(ApiError::Invalid("operation: put, delete, increment or transaction".into())),
    }
}

fn keys<'a>(start: &'a [u8], end: &'a [u8]) -> Keys<'a> {
    if end.is_empty() { Keys::One(start) } else { Keys::Interval { start, end } }
}

/// What a step of a transaction touches; a step with a previous entry also reads it.
fn access_of(operation: &TxnOperation) -> (Verb, Keys<'_>) {
    match operation {
        TxnOperation::Get(get) => (Verb::Read, Keys::One(&get.key)),
        TxnOperation::Range(range) => {
            (Verb::Read, Keys::Interval { start: &range.start, end: &range.end })
        }
        TxnOperation::Put(put) => (Verb::Write, Keys::One(&put.key)),
        TxnOperation::Delete(delete) => (Verb::Write, Keys::One(&delete.key)),
        TxnOperation::DeleteRange(delete) => {
            (Verb::Write, Keys::Interval { start: &delete.start, end: &delete.end })
        }
        TxnOperation::Increment(increment) => (Verb::Write, Keys::One(&increment.key)),
        TxnOperation::Txn(_) => (Verb::Write, Keys::None),
    }
}

/// Positions of what a transaction names.
#[derive(Default)]
struct Named {
    keys: Vec<u64>,
    /// Of the first keys of intervals.
    intervals: Vec<u64>,
}

impl Named {
    fn collect(&mut self, txn: &Txn) {
        for compare in &txn.compares {
            self.add(keys(&compare.key, &compare.end));
        }
        for step in txn.success.iter().chain(&txn.failure) {
            match &step.operation {
                Some(TxnOperation::Txn(nested)) => self.collect(nested),
                Some(operation) => self.add(access_of(operation).1),
                None => {}
            }
        }
    }

    fn add(&mut self, keys: Keys<'_>) {
        match keys {
            Keys::One(key) => self.keys.push(position(key)),
            Keys::Interval { start, .. } => self.intervals.push(position(start)),
            Keys::None => {}
        }
    }
}
