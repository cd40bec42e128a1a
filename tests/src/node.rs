//! One `holdfastd` process: started, signalled and ended by its handle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::{binary, built_example, example};
use crate::disk::SmallDisk;
use crate::guardian;
use crate::link::Callers;
use crate::wait::eventually;

/// `holdfastd` by a clock that is told how wrong to be.
const BY_WRONG_CLOCK: &str = "holdfastd_wrong_clock";

/// Lines of a log that are printed for a failed scenario.
const LOG_LINES_SHOWN: usize = 60;

/// A node: its addresses, its folder, and its process while there is one.
#[derive(Debug)]
pub struct Node {
    /// Where clients reach it.
    pub client: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Where it listens for them.
    pub(crate) peer_inside: String,
    /// Where HTTP reaches it.
    pub http: String,
    folder: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
    caller: Option<(Callers, usize)>,
    small_disk: Option<SmallDisk>,
    clock_offset_s: i64,
    wrong_clock: Option<WrongClock>,
}

/// A clock that goes wrong while a node lives by it; timers stay right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongClock {
    /// How many milliseconds pass on it while 1000 do.
    pub rate_permille: u32,
    /// How far its wall clock is ahead at the start, milliseconds.
    pub wall_ahead_ms: i64,
}

/// Whether nodes can be given clocks that go wrong: whether the program for it was built.
pub(crate) fn can_bend_clocks() -> bool {
    built_example(BY_WRONG_CLOCK).is_some()
}

/// A command in front of which `unshare` puts a clock that is `seconds` off.
fn with_clock(seconds: i64, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    let seconds = seconds.to_string();
    command.args(["--time", "--boottime", &seconds, "--monotonic", &seconds, "--"]).arg(program);
    command
}

/// Whether processes may be given clocks of their own here.
pub(crate) fn can_move_clocks() -> bool {
    let mut command = with_clock(1, Path::new("true"));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Node {
    pub(crate) fn new(folder: PathBuf, [client, peer, http]: [String; 3]) -> Self {
        Self {
            client,
            peer_inside: peer.clone(),
            peer,
            http,
            folder,
            arguments: Vec::new(),
            process: None,
            caller: None,
            small_disk: None,
            clock_offset_s: 0,
            wrong_clock: None,
        }
    }

    /// Whoever dials for it is to be known as node `number`.
    pub(crate) fn is_caller(&mut self, callers: Callers, number: usize) {
        self.caller = Some((callers, number));
    }

    /// It listens at `address` and tells others what it was made with.
    pub(crate) fn listens_behind(&mut self, address: String) {
        self.peer_inside = address;
    }

    /// Gives it a disk of its own, if that is allowed here.
    pub(crate) fn mount_small_disk(&mut self, bytes: u64) -> Result<()> {
        fs::create_dir_all(self.data())?;
        self.small_disk = SmallDisk::mount(&self.data(), bytes);
        Ok(())
    }

    /// Its own small disk, where it was given one.
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        self.small_disk.as_ref()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Changes a byte of every table of `range` here, as a failing disk would, while the node is
    /// stopped; says how many tables there were.
    ///
    /// # Errors
    /// Of the file system.
    pub fn damage_tables(&self, range: u64) -> Result<usize> {
        let mut damaged = 0;
        let mut folders = vec![self.data().join("ranges")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let is_ours = path.strip_prefix(self.data().join("ranges"))?;
                if !is_ours.to_string_lossy().starts_with(&format!("{range}-")) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "tbl") {
                    let mut bytes = fs::read(&path)?;
                    let byte = bytes.get_mut(20).context("a table is longer")?;
                    *byte ^= 4;
                    fs::write(&path, bytes)?;
                    damaged += 1;
                }
            }
        }
        Ok(damaged)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("holdfast.toml")
    }

    /// What it has printed since it was first started.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n")
    }

    pub(crate) fn write_config(&self, seeds: &[String]) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let text = format!(
            "[node]\ndata_dir = {:?}\n[listen]\nclient = {:?}\npeer = {:?}\nhttp = {:?}\n\
             [advertise]\npeer = {:?}\n[cluster]\nseeds = {seeds:?}\n\
             # As small as they may be: every node fills three in advance.\n\
             [journal]\nsegment_bytes = 71303168\n",
            self.data().display().to_string(),
            self.client,
            self.peer_inside,
            self.http,
            self.peer,
        );
        Ok(fs::write(self.config(), text)?)
    }

    /// More arguments for every start from now on.
    pub fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    /// Starts it with its configuration and `arguments`.
    ///
    /// # Errors
    /// If it runs already.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.client);
        }
        let log = self.folder.join("log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let program = match self.wrong_clock {
            Some(_) => example(BY_WRONG_CLOCK),
            None => binary("holdfastd"),
        };
        let mut command = match self.clock_offset_s {
            0 => Command::new(program),
            seconds => with_clock(seconds, &program),
        };
        command.arg("--config").arg(self.config()).args(&self.arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        if let Some(WrongClock { rate_permille, wall_ahead_ms }) = self.wrong_clock {
            command.env("WRONG_CLOCK", format!("{rate_permille},{wall_ahead_ms}"));
        }
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting holdfastd")?;
        guardian::watch_process(child.id());
        if let Some((callers, number)) = &self.caller {
            callers.is(*number, child.id());
        }
        self.process = Some(child);
        Ok(())
    }

    /// The clock it lives by is so many seconds off from its next start on.
    pub fn set_clock_offset(&mut self, seconds: i64) {
        self.clock_offset_s = seconds;
    }

    /// It lives by such a clock from its next start on; `None`: by a right one.
    pub fn set_wrong_clock(&mut self, clock: Option<WrongClock>) {
        self.wrong_clock = clock;
    }

    /// How many seconds the clock it lives by is off, as the system tells.
    ///
    /// # Errors
    /// If it does not run.
    pub fn clock_offset(&self) -> Result<i64> {
        let id = self.pid().with_context(|| format!("{} does not run", self.client))?;
        let text = fs::read_to_string(format!("/proc/{id}/timens_offsets"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("boottime"));
        let seconds = line.and_then(|line| line.split_whitespace().next());
        Ok(seconds.context("no offset of its clock")?.parse()?)
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Whether its process has not ended (a paused one has not).
    pub fn is_running(&mut self) -> bool {
        match &mut self.process {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(child) = &self.process else { bail!("{} does not run", self.client) };
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// SIGKILL; answers when it has ended.
    ///
    /// # Errors
    /// If it was never started.
    pub fn kill(&mut self) -> Result<()> {
        let Some(child) = &mut self.process else { bail!("{} does not run", self.client) };
        child.kill()?;
        child.wait()?;
        self.process = None;
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether the system says that it is stopped.
    ///
    /// # Errors
    /// If it does not run.
    pub fn is_paused(&self) -> Result<bool> {
        let id = self.pid().with_context(|| format!("{} does not run", self.client))?;
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// If it does not run.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let client = self.client.clone();
        let Some(child) = &mut self.process else { bail!("{client} does not run") };
        let ended = eventually(limit, async || {
            child.try_wait()?.with_context(|| format!("{client} has not ended"))
        });
        let status = ended.await?;
        self.process = None;
        Ok(status)
    }

    /// SIGTERM, then waits.
    ///
    /// # Errors
    /// If it does not run, or still does after 20 s.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.terminate()?;
        self.ended(Duration::from_secs(20)).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // It may have ended already; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
        // Nothing uses it any more.
        self.small_disk = None;
    }
}
