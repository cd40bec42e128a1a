//! What every data command needs: the SDK client as the flags ask for it, and error mapping.

use anyhow::Result;
use holdfast_client::{Client, Error, ReadLevel};

use crate::args::{Cli, Read, ReadArgs};
use crate::exit::{Exit, refused};

/// A client with the endpoints, keyspace and deadline of the command line.
///
/// # Errors
/// An endpoint or deadline that makes no sense.
pub fn client(cli: &Cli) -> Result<Client, Error> {
    let first = if cli.direct { 1 } else { cli.endpoints.len() };
    Client::builder(cli.endpoints.iter().take(first).cloned())
        .keyspace(cli.keyspace.clone())
        .deadline(cli.timeout())
        .direct(cli.direct)
        .build()
}

/// The SDK's word for a read level.
///
/// # Errors
/// A bound without a follower read: nothing else can be stale.
pub fn level(read: &ReadArgs) -> Result<ReadLevel> {
    match read.read {
        Read::Follower => Ok(ReadLevel::Follower),
        _ if read.max_staleness.is_some() => {
            Err(refused("--max-staleness is about follower reads: add --read follower"))
        }
        Read::Linearizable => Ok(ReadLevel::Linearizable),
        Read::Lease => Ok(ReadLevel::Lease),
    }
}

/// Which exit code an error of the SDK asks for.
pub fn exit_of(error: &Error) -> Exit {
    if error.is_unknown() {
        Exit::Unknown
    } else if error.is_callers() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}
