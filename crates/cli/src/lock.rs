//! `lock` and `elect`: doing something only while holding a lock, a permit or an office.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_client::{Client, Error, LockGuard, Permit};
use holdfast_model::limits::{REQUEST_DEADLINE_MAX, TTL_MAX};
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Output;
use crate::exit::{Exit, refused};
use crate::output;

/// How long a command whose lock was lost may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Exit code of a command that could not be found, as shells have it.
const NOT_FOUND: u8 = 127;
/// Exit codes of a wait that a signal ended, as shells have them.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// What `lock` was asked for.
#[derive(Clone, Copy, Debug)]
pub struct LockArgs<'a> {
    /// Name of the lock or semaphore.
    pub name: &'a str,
    /// How many may hold it at once; none: a lock.
    pub permits: Option<u32>,
    /// It is free again this long after its holder has died.
    pub ttl: Duration,
    /// How long to wait for it; none: for ever.
    pub limit: Option<Duration>,
    /// What to run.
    pub command: &'a [String],
}

/// What is held while a command runs.
enum Held {
    Lock(LockGuard),
    Permit(Permit),
}

impl Held {
    fn token(&self) -> u64 {
        match self {
            Self::Lock(guard) => guard.fencing_token(),
            Self::Permit(permit) => permit.fencing_token(),
        }
    }

    async fn lost(&self) {
        match self {
            Self::Lock(guard) => guard.lost().await,
            Self::Permit(permit) => permit.lost().await,
        }
    }

    async fn release(self) -> Result<(), Error> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::Permit(permit) => permit.release().await,
        }
    }
}

/// Waits for the lock or a permit; `None` where others held it all the time.
async fn acquire(client: &Client, args: LockArgs<'_>, holder: &str) -> Result<Option<Held>, Error> {
    let held = match args.permits {
        Some(permits) => {
            let semaphore = client.semaphore(args.name.to_owned(), permits).ttl(args.ttl);
            let patience = args.limit.unwrap_or(TTL_MAX);
            semaphore.value(holder.to_owned()).patience(patience).acquire().await.map(Held::Permit)
        }
        None => acquire_lock(client, args, holder).await.map(Held::Lock),
    };
    match held {
        Ok(held) => Ok(Some(held)),
        Err(Error::Deadline { last, .. }) if last.contains("held") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn acquire_lock(
    client: &Client,
    args: LockArgs<'_>,
    holder: &str,
) -> Result<LockGuard, Error> {
    loop {
        let lock = client.lock(args.name.to_owned()).ttl(args.ttl).value(holder.to_owned());
        match lock.deadline(args.limit.unwrap_or(REQUEST_DEADLINE_MAX)).acquire().await {
            Err(Error::Deadline { last, .. }) if args.limit.is_none() && last.contains("held") => {}
            ended => return ended,
        }
    }
}

/// Whether the lock went to someone else than `holder`.
async fn others_hold(client: &Client, args: LockArgs<'_>, holder: &str) -> bool {
    let state = client.lock(args.name.to_owned()).inspect().await;
    args.permits.is_none() && state.is_ok_and(|state| state.held && state.value != holder)
}

/// Says who holds what could not be had.
async fn tell_holders(client: &Client, args: LockArgs<'_>) -> Result<(), Error> {
    let Some(permits) = args.permits else {
        let state = client.lock(args.name.to_owned()).inspect().await?;
        let holder = output::readable(&state.value);
        output::note(&format!("{} is held: {holder}, token {}", args.name, state.fencing_token));
        return Ok(());
    };
    let state = client.semaphore(args.name.to_owned(), permits).inspect().await?;
    for holder in &state.holders {
        let text = output::readable(&holder.value);
        let (slot, token) = (holder.slot, holder.fencing_token);
        output::note(&format!("{} is held: {text}, slot {slot}, token {token}", args.name));
    }
    Ok(())
}

/// Runs a command while holding a lock or a permit.
///
/// # Errors
/// It could not be asked for, or the command could not be started.
pub async fn run(client: &Client, args: LockArgs<'_>) -> Result<Exit> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(refused("no command was given"));
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let holder = format!("{program} (process {})", std::process::id());
    // A wait that is dropped leaves the queue.
    let held = tokio::select! {
        held = acquire(client, args, &holder) => held,
        _ = terminate.recv() => return Ok(Exit::Child(TERMINATED)),
        _ = interrupt.recv() => return Ok(Exit::Child(INTERRUPTED)),
    };
    let held = match held {
        Ok(Some(held)) => held,
        Ok(None) => {
            tell_holders(client, args).await?;
            return Ok(Exit::No);
        }
        Err(Error::Unknown(_)) if others_hold(client, args, &holder).await => {
            tell_holders(client, args).await?;
            return Ok(Exit::No);
        }
        Err(Error::Unknown(why)) => {
            output::note(&format!("{why}; nothing was run, what was granted is given back"));
            return Ok(Exit::Failed);
        }
        Err(error) => return Err(error.into()),
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::inherit());
    command.env("HOLDFAST_FENCING_TOKEN", held.token().to_string());
    if let Held::Permit(permit) = &held {
        command.env("HOLDFAST_SLOT", permit.slot().to_string());
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            held.release().await?;
            output::note(&format!("{program}: {error}"));
            return Ok(Exit::Child(NOT_FOUND));
        }
    };
    let Some(exit) = attend(&mut child, &held).await? else {
        output::note(&format!("the lock {} was lost; the command was ended", args.name));
        return Ok(Exit::Failed);
    };
    held.release().await?;
    Ok(exit)
}

/// Waits for the command; ends it if the lock is lost (`None`), hands signals on.
async fn attend(child: &mut Child, held: &Held) -> Result<Option<Exit>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Some(exit_of(status?))),
            () = held.lost() => {
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
    output: Output,
) -> Result<Exit> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let election = client.election(name.to_owned()).ttl(ttl).patience(limit.unwrap_or(TTL_MAX));
    // A candidacy that is dropped is withdrawn.
    let elected = tokio::select! {
        elected = election.campaign(value.to_owned()) => elected,
        _ = terminate.recv() => return Ok(Exit::Child(TERMINATED)),
        _ = interrupt.recv() => return Ok(Exit::Child(INTERRUPTED)),
    };
    let guard = match elected {
        Ok(guard) => guard,
        Err(Error::Deadline { last, .. }) if last.contains("held") => {
            output::note(&format!("{name}: someone else leads"));
            return Ok(Exit::No);
        }
        Err(error) => return Err(error.into()),
    };
    let token = guard.fencing_token();
    match output {
        Output::Json => output::line(&serde_json::json!({"fencing_token": token}).to_string())?,
        Output::Raw => output::line(&token.to_string())?,
        Output::Table => output::line(&format!("elected token {token}"))?,
    }
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
