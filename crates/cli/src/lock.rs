//! `lock` and `elect`: doing something only while holding a lock.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_client::{Client, Error, LockGuard};
use holdfast_model::limits::REQUEST_DEADLINE_MAX;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, refused};
use crate::output;

/// How long a command whose lock was lost may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Exit code of a command that could not be found, as shells have it.
const NOT_FOUND: u8 = 127;

/// Waits for the lock for `limit`, or for ever.
async fn acquire(
    client: &Client,
    name: &str,
    value: &str,
    ttl: Duration,
    limit: Option<Duration>,
) -> Result<Option<LockGuard>, Error> {
    loop {
        let lock = client.lock(name.to_owned()).ttl(ttl).value(value.to_owned());
        match lock.deadline(limit.unwrap_or(REQUEST_DEADLINE_MAX)).acquire().await {
            Ok(guard) => return Ok(Some(guard)),
            Err(Error::Deadline { .. }) if limit.is_none() => {}
            Err(Error::Deadline { last, .. }) if last.contains("held") => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Runs `command` while holding the lock `name`; waits for it for `limit`, or for ever.
///
/// # Errors
/// The lock could not be asked for, or the command could not be started.
pub async fn run(
    client: &Client,
    name: &str,
    ttl: Duration,
    limit: Option<Duration>,
    command: &[String],
) -> Result<Exit> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(refused("no command was given"));
    };
    let holder = format!("{program} (process {})", std::process::id());
    let Some(guard) = acquire(client, name, &holder, ttl, limit).await? else {
        let state = client.lock(name.to_owned()).inspect().await?;
        let holder = output::readable(&state.value);
        output::note(&format!("{name} is held: {holder}, token {}", state.fencing_token));
        return Ok(Exit::No);
    };
    let mut child = match Command::new(program)
        .args(arguments)
        .env("HOLDFAST_FENCING_TOKEN", guard.fencing_token().to_string())
        .stdin(Stdio::inherit())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => {
            guard.release().await?;
            output::note(&format!("{program}: {error}"));
            return Ok(Exit::Child(NOT_FOUND));
        }
    };
    let exit = attend(&mut child, &guard).await?;
    if exit.is_none() {
        output::note(&format!("the lock {name} was lost; the command was ended"));
        return Ok(Exit::Failed);
    }
    guard.release().await?;
    Ok(exit.unwrap_or(Exit::Failed))
}

/// Waits for the command; ends it if the lock is lost (`None`), hands signals on.
async fn attend(child: &mut Child, guard: &LockGuard) -> Result<Option<Exit>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Some(exit_of(status?))),
            () = guard.lost() => {
                end(child).await?;
                return Ok(None);
            }
            _ = terminate.recv() => send(child, Signal::TERM),
            // The terminal sends it to the command as well.
            _ = interrupt.recv() => {}
        }
    }
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    match u8::try_from(code.unwrap_or(1)) {
        Ok(0) => Exit::Done,
        Ok(code) => Exit::Child(code),
        Err(_) => Exit::Child(u8::MAX),
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

async fn end(child: &mut Child) -> Result<()> {
    send(child, Signal::TERM);
    if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
        child.kill().await.context("ending the command")?;
    }
    Ok(())
}

/// Stands for election under `name`; leads until interrupted or voted out by silence.
///
/// # Errors
/// The election could not be asked.
pub async fn elect(
    client: &Client,
    name: &str,
    value: &str,
    ttl: Duration,
    limit: Option<Duration>,
) -> Result<Exit> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let elected = tokio::select! {
        elected = acquire(client, name, value, ttl, limit) => elected?,
        _ = terminate.recv() => return Ok(Exit::No),
        _ = interrupt.recv() => return Ok(Exit::No),
    };
    let Some(guard) = elected else {
        output::note(&format!("{name}: someone else leads"));
        return Ok(Exit::No);
    };
    output::line(&format!("elected token {}", guard.fencing_token()))?;
    tokio::select! {
        () = guard.lost() => {
            output::note("the office was lost");
            return Ok(Exit::Failed);
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    guard.release().await?;
    Ok(Exit::Done)
}
