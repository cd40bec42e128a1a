//! Running `holdfast`, and other programs, as a user would.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::binaries::{binary, scratch};
use crate::guardian;

/// No command of a test takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The command line, aimed at one cluster.
#[derive(Clone, Debug)]
pub struct Cli {
    endpoints: String,
}

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; −1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// This, if it ended with `code`.
    ///
    /// # Errors
    /// Everything it printed, if not.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != code {
            bail!("exit code {}, not {code}; {}\n{}", self.code, self.text(), self.stderr);
        }
        Ok(self)
    }
}

/// A program that has been started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts `command` with `stdin`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut command: Command, stdin: &[u8]) -> Result<Self> {
        for (name, _) in std::env::vars_os() {
            let is_option = name.to_string_lossy().starts_with("HOLDFAST_");
            if is_option && !command.get_envs().any(|(given, _)| given == name) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        guardian::watch_process(child.id());
        let mut input = child.stdin.take().context("stdin was asked for")?;
        let given = stdin.to_vec();
        // A program need not read what it is given.
        std::thread::spawn(move || input.write_all(&given).is_ok());
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Ok(Self { child, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGINT, as Ctrl-C does.
    ///
    /// # Errors
    /// If it has ended.
    pub fn interrupt(&self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::INT)?)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it has not ended after two minutes; it is killed then.
    pub fn finish(mut self) -> Result<Finished> {
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= end {
                self.child.kill()?;
                bail!("no end after {LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let take = |reader: Option<JoinHandle<Vec<u8>>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        Ok(Finished {
            code: status.code().unwrap_or(-1),
            stdout: take(self.stdout.take()),
            stderr: String::from_utf8_lossy(&take(self.stderr.take())).into_owned(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            // Nobody waits for it any more.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a broken pipe is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

impl Cli {
    /// Aimed at `endpoints`.
    pub fn new(endpoints: &[String]) -> Self {
        Self { endpoints: endpoints.join(",") }
    }

    /// The command `holdfast ARGUMENTS…`.
    pub fn command<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(binary("holdfast"));
        command.env("HOLDFAST_ENDPOINTS", &self.endpoints);
        // Where `load` notes its progress: nothing outside of target/ is written.
        command.env("XDG_STATE_HOME", scratch().join("state"));
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command
    }

    /// Starts `holdfast ARGUMENTS…`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Running> {
        Running::start(self.command(arguments), b"")
    }

    /// Runs `holdfast LINE`, split at spaces.
    ///
    /// # Errors
    /// If it does not end.
    pub fn run(&self, line: &str) -> Result<Finished> {
        self.start(line.split(' ').filter(|word| !word.is_empty()))?.finish()
    }

    /// Runs `holdfast LINE`, split at spaces, with `stdin`.
    ///
    /// # Errors
    /// If it does not end.
    pub fn run_with(&self, line: &str, stdin: &[u8]) -> Result<Finished> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Running::start(self.command(words), stdin)?.finish()
    }
}
