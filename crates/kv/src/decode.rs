//! Entries decoded and checked, before any of them changes anything.

use bytes::Bytes;
use holdfast_model::LogIndex;
use prost::Message;

use crate::command::{
    APPLY_VERSION, Envelope, EtcdOperation, EtcdStep, EtcdTxn, Operation, Txn, TxnOperation,
    TxnStep,
};
use crate::{Error, Kind, LogEntry, LogPosition, Result};

/// A decoded entry.
pub(crate) struct Decoded {
    pub position: LogPosition,
    pub body: Body,
}

/// What it holds.
pub(crate) enum Body {
    Envelope(Envelope),
    Membership(Bytes),
    Blank,
}

/// Decodes entries that must continue the log at `expected`; none lets any index come.
pub(crate) fn decode(entries: &[LogEntry], mut expected: Option<LogIndex>) -> Result<Vec<Decoded>> {
    let mut decoded = Vec::with_capacity(entries.len());
    for entry in entries {
        let index = entry.position.index;
        if let Some(expected) = expected.filter(|expected| *expected != index) {
            return Err(Error::OutOfOrder { expected, given: index });
        }
        expected = Some(LogIndex(index.0 + 1));
        let body = match &entry.kind {
            Kind::Normal(payload) => Body::Envelope(decode_envelope(index, payload)?),
            Kind::Membership(membership) => Body::Membership(membership.clone()),
            Kind::Blank => Body::Blank,
        };
        decoded.push(Decoded { position: entry.position, body });
    }
    Ok(decoded)
}

fn decode_envelope(index: LogIndex, payload: &Bytes) -> Result<Envelope> {
    let envelope = Envelope::decode(payload.clone())
        .map_err(|source| Error::MalformedEntry { index, source })?;
    if envelope.apply_version > APPLY_VERSION {
        let needed = envelope.apply_version;
        return Err(Error::UnknownVersion { needed, known: APPLY_VERSION });
    }
    let items = envelope.commands.iter().flat_map(|command| &command.items);
    if items.map(|item| &item.operation).any(|operation| !is_known(operation.as_ref())) {
        return Err(Error::UnknownOperation { index });
    }
    Ok(envelope)
}

/// Whether this build knows all of an operation.
fn is_known(operation: Option<&Operation>) -> bool {
    match operation {
        None => false,
        Some(Operation::Txn(txn)) => is_known_txn(txn),
        Some(Operation::Etcd(txn)) => is_known_etcd(txn),
        Some(Operation::Configure(configure)) => configure.apply_version <= APPLY_VERSION,
        Some(_) => true,
    }
}

fn is_known_txn(txn: &Txn) -> bool {
    let known = |step: &TxnStep| match &step.operation {
        None => false,
        Some(TxnOperation::Txn(txn)) => is_known_txn(txn),
        Some(_) => true,
    };
    txn.compares.iter().all(|compare| compare.target.is_some())
        && txn.success.iter().chain(&txn.failure).all(known)
}

fn is_known_etcd(txn: &EtcdTxn) -> bool {
    let known = |step: &EtcdStep| match &step.operation {
        None => false,
        Some(EtcdOperation::Txn(txn)) => is_known_etcd(txn),
        Some(_) => true,
    };
    txn.compares.iter().all(|compare| compare.target.is_some())
        && txn.success.iter().chain(&txn.failure).all(known)
}
