//! Transactions: several keys of one range, one revision.

use holdfast_model::{Revision, position};
use holdfast_wire::v1;

use crate::client::{Client, check_deadline};
use crate::error::Error;
use crate::method;
use crate::operation::{Compare, Operation, key_of};
use crate::options::{awaitable, with_deadline};
use crate::types::{Entry, Origin};

impl Client {
    /// A transaction over keys of one range: keys with the same `{tag}`, or any keys of a
    /// keyspace with one range.
    ///
    /// ```no_run
    /// # async fn f(client: holdfast_client::Client) -> Result<(), holdfast_client::Error> {
    /// use holdfast_client::{Compare, Operation, Relation};
    ///
    /// let answer = client
    ///     .txn()
    ///     .when(Compare::value("{ann}/balance", Relation::Equal, "100"))
    ///     .then(Operation::put("{ann}/balance", "70"))
    ///     .then(Operation::put("{ann}/spent", "30"))
    ///     .or_else(Operation::get("{ann}/balance"))
    ///     .await?;
    /// println!("{} at {}", answer.succeeded, answer.revision);
    /// # Ok(())
    /// # }
    /// ```
    pub fn txn(&self) -> Txn {
        Txn { client: self.clone(), request: v1::TxnRequest::default() }
    }
}

/// A transaction being put together. Made by [`Client::txn`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Txn {
    client: Client,
    request: v1::TxnRequest,
}

/// What one operation of a transaction gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResult {
    /// Get: what was found. Put and delete: the entry before, if asked for.
    pub entries: Vec<Entry>,
    /// Put: 1; delete: how many keys; increment: 1.
    pub count: u64,
    /// Increment: the number now.
    pub value: i64,
    /// Get of a range: the limit cut it.
    pub more: bool,
}

/// Answer of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether all compares held, so that `then` ran; else `or_else` did.
    pub succeeded: bool,
    /// One per operation that ran.
    pub results: Vec<TxnResult>,
    /// Revision of the change; 0 where nothing changed.
    pub revision: Revision,
    /// Who answered, and the point in history the transaction made.
    pub origin: Origin,
}

impl Txn {
    with_deadline!();

    /// Adds a compare; all must hold for the `then` side to run.
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.compares.push(compare.0);
        self
    }

    /// Adds an operation to the side that runs where all compares hold.
    pub fn then(mut self, operation: Operation) -> Self {
        self.request.success.push(v1::TxnOperation { operation: Some(operation.0) });
        self
    }

    /// Adds an operation to the side that runs where a compare does not hold.
    pub fn or_else(mut self, operation: Operation) -> Self {
        self.request.failure.push(v1::TxnOperation { operation: Some(operation.0) });
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`Error::Invalid`]: keys of several ranges, a key written twice, nothing to do.
    /// [`Error::Unknown`]: it may have happened. All others: it did not and will not.
    pub async fn send(self) -> Result<TxnAnswer, Error> {
        check_deadline(self.client.deadline)?;
        let Self { client, mut request } = self;
        let place = first_key(&request)
            .map(|key| position(key))
            .ok_or_else(|| Error::Invalid("the transaction names no key".to_owned()))?;
        request.keyspace = client.wire_keyspace();
        request.direct = client.inner.config.direct;
        let limit = client.limit();
        let answer = client.mutate(&method::TXN, request, place, limit).await?;
        let result = |result: v1::TxnResult| TxnResult {
            entries: result.entries.into_iter().map(Entry::from).collect(),
            count: result.count,
            value: result.value,
            more: result.more,
        };
        Ok(TxnAnswer {
            succeeded: answer.succeeded,
            results: answer.results.into_iter().map(result).collect(),
            revision: Revision(answer.revision),
            origin: Origin::from(answer.header.as_ref()),
        })
    }
}

awaitable!(Txn => TxnAnswer, send);

fn first_key(request: &v1::TxnRequest) -> Option<&bytes::Bytes> {
    let compared = request.compares.first().map(|compare| &compare.key);
    let mut operations = request.success.iter().chain(&request.failure);
    compared.or_else(|| Some(key_of(operations.find_map(|o| o.operation.as_ref())?)))
}
