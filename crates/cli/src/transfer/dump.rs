//! `holdfast dump`: every record of one point in time of each range, in key order.

use anyhow::Result;
use holdfast_client::Client;

use crate::exit::{Exit, refused};
use crate::output;
use crate::transfer::format::{Format, write};

/// Bytes that are collected before they are written out.
const BUFFER_BYTES: usize = 1 << 18;

/// Writes the records whose keys start with `prefix` to standard output.
///
/// # Errors
/// Those of the scan; a record that TSV cannot hold ends the dump with exit code 2.
pub async fn run(client: &Client, prefix: &str, format: Format) -> Result<Exit> {
    let mut scan = client.scan(prefix.to_owned()).start()?;
    let mut out = Vec::with_capacity(2 * BUFFER_BYTES);
    while let Some(page) = scan.next_page().await? {
        for entry in &page.entries {
            write(format, &entry.key, &entry.value, &mut out).map_err(refused)?;
            if out.len() >= BUFFER_BYTES {
                output::emit(&out)?;
                out.clear();
            }
        }
    }
    output::emit(&out)?;
    Ok(Exit::Done)
}
