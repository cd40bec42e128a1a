//! Reads of keys, one or many.

use futures_util::FutureExt;
use futures_util::future::join_all;
use holdfast_kv as kv;
use holdfast_model::position;

use super::serve::{Query, ReadSpec, Reply};
use super::{Gateway, Place};
use crate::api::{
    self, Answer, ApiError, BatchGet, BatchWrite, Call, DeletePrefix, Deleted, EtcdRead, Found,
    Get, ItemFound, ItemWritten, Items, Point, ReadLevel, ReadOptions, Reply as ApiReply, Scan,
    ScanPage, Watch, WatchItem, Write,
};
use crate::auth::{Keys, Verb};
use crate::limits::{MIN_POINTS_MAX, at_most};

impl Gateway {
    /// Reads one key; see [`crate::api::Kv::get`].
    pub async fn get(&self, call: &Call, request: Get) -> Result<Answer<Found>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        self.parts.limits.key(&request.key)?;
        check_options(&request.read)?;
        self.allow(call, Verb::Read, &request.keyspace, Keys::One(&request.key))?;
        let position = position(&request.key);
        let place = Place::Position { keyspace: &request.keyspace, position };
        let spec = self.spec(place, &request.read, Self::at_revision(request.revision));
        let query = Query::Get(request.key);
        let served = match spec.level == ReadLevel::Follower && self.is_etcd(&request.keyspace) {
            true => self.read_told(call, place, &spec, &query).await?,
            false => self.read(call, place, &spec, &query).await?,
        };
        let entry = match served.reply {
            Reply::Get(entry) => entry,
            Reply::GetMany(entries) => entries.into_iter().next().flatten(),
            other => return Err(super::coordination::unexpected("get", &other)),
        };
        Ok(Answer { header: served.header, value: Found { entry, staleness: served.staleness } })
    }

    /// Reads many keys; see [`crate::api::Kv::batch_get`].
    pub async fn batch_get(
        &self,
        call: &Call,
        request: BatchGet,
    ) -> Result<Answer<Vec<ItemFound>>, ApiError> {
        self.enter(call, &request.keyspace).await?;
        let BatchGet { keyspace, keys, read } = request;
        at_most("batch keys", self.parts.limits.batch_operations_max, keys.len())?;
        if keys.is_empty() {
            return Err(ApiError::Invalid("batch keys: at least 1, given 0".into()));
        }
        check_options(&read)?;
        let mut positions = Vec::with_capacity(keys.len());
        for key in &keys {
            self.parts.limits.key(key)?;
            self.allow(call, Verb::Read, &keyspace, Keys::One(key))?;
            positions.push(position(key));
        }
        self.known_keyspace(&keyspace)?;
        let all: Vec<usize> = (0..keys.len()).collect();
        let groups = self.group(&keyspace, &positions, &all);
        let one = |members: Vec<usize>| {
            let first = members.first().map_or(0, |index| positions[*index]);
            let place = Place::Position { keyspace: &keyspace, position: first };
            let spec = self.spec(place, &read, None);
            let query = Query::GetMany(members.iter().map(|index| keys[*index].clone()).collect());
            async move {
                let result = self.read(call, place, &spec, &query).await;
                (members, result)
            }
        };
        let mut results: Vec<_> = (0..keys.len()).map(|_| None).collect();
        for (members, result) in join_all(groups.into_values().map(one)).await {
            for (slot, found) in members.iter().zip(found_of(result, members.len())) {
                results[*slot] = Some(found);
            }
        }
        let lost = || Err(ApiError::Internal("a key of a batch has no result".into()));
        let value = results.into_iter().map(|result| result.unwrap_or_else(lost)).collect();
        Ok(Answer { header: self.plain_header(), value })
    }

    /// How a read at `place` is to be answered.
    pub(super) fn spec(&self, place: Place<'_>, read: &ReadOptions, at: Option<Point>) -> ReadSpec {
        let min = match read.min_points.is_empty() {
            true => None,
            false => self.resolve(place).ok().and_then(|target| read.min_point(target.range)),
        };
        let max_staleness = read.max_staleness.filter(|_| read.level == ReadLevel::Follower);
        ReadSpec { level: read.level, max_staleness, min, at }
    }

    /// Refuses a keyspace that does not exist before a request is taken apart.
    pub(super) fn known_keyspace(&self, keyspace: &str) -> Result<(), ApiError> {
        super::keyspace_of(&self.parts.map.peek(), keyspace).map(|_| ())
    }
}

/// Refuses more points than a request may carry.
pub(super) fn check_options(read: &ReadOptions) -> Result<(), ApiError> {
    at_most("read points", MIN_POINTS_MAX, read.min_points.len())
}

/// One result per key out of the answer for a range.
fn found_of(result: Result<super::serve::Served, ApiError>, count: usize) -> Vec<ItemFound> {
    let served = match result {
        Ok(served) => served,
        Err(error) => return vec![Err(error); count],
    };
    let staleness = served.staleness;
    match served.reply {
        Reply::GetMany(entries) if entries.len() == count => {
            entries.into_iter().map(|entry| Ok(Found { entry, staleness })).collect()
        }
        other => vec![Err(super::coordination::unexpected("batch", &other)); count],
    }
}

impl api::Kv for Gateway {
    fn get<'a>(&'a self, call: &'a Call, request: Get) -> ApiReply<'a, Answer<Found>> {
        Gateway::get(self, call, request).boxed()
    }

    fn write<'a>(&'a self, call: &'a Call, request: Write) -> ApiReply<'a, Answer<kv::Outcome>> {
        Gateway::write(self, call, request).boxed()
    }

    fn etcd_read<'a>(
        &'a self,
        call: &'a Call,
        request: EtcdRead,
    ) -> ApiReply<'a, Answer<kv::EtcdOutcome>> {
        Gateway::etcd_read(self, call, request).boxed()
    }

    fn delete_prefix<'a>(
        &'a self,
        call: &'a Call,
        request: DeletePrefix,
    ) -> ApiReply<'a, Answer<Deleted>> {
        Gateway::delete_prefix(self, call, request).boxed()
    }

    fn batch_get<'a>(
        &'a self,
        call: &'a Call,
        request: BatchGet,
    ) -> ApiReply<'a, Answer<Vec<ItemFound>>> {
        Gateway::batch_get(self, call, request).boxed()
    }

    fn batch_write<'a>(
        &'a self,
        call: &'a Call,
        request: BatchWrite,
    ) -> ApiReply<'a, Answer<Vec<ItemWritten>>> {
        Gateway::batch_write(self, call, request).boxed()
    }

    fn scan(&self, call: &Call, request: Scan) -> Items<ScanPage> {
        Gateway::scan(self, call, request)
    }

    fn watch(&self, call: &Call, request: Watch) -> Items<WatchItem> {
        Gateway::watch(self, call, request)
    }
}
