//! One scenario in one process: what runs it, how long it may take, how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_env::defects::{Defect, VARIABLE};
use serde_json::Value;

use crate::table::Scenario;

/// A process that takes longer has hung, and has shown nothing.
const RUN_MAX: Duration = Duration::from_secs(180);
/// How often is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(10);
/// What a failed test and the other programs end with.
const FAILED: [i32; 2] = [101, 1];

/// The programs of the scenarios, by the name of their target.
pub struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Reads what cargo said when it built them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &str) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let program = |message: Value| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        };
        Ok(Self(messages.filter_map(program).collect()))
    }

    fn command(&self, scenario: Scenario) -> io::Result<Command> {
        let (name, arguments): (&str, Vec<String>) = match scenario {
            Scenario::Test { suite, .. } => {
                (suite, vec!["--exact".to_owned(), scenario.to_string()])
            }
            Scenario::Storage { campaign, first, .. } => {
                ("defects", vec!["storage".to_owned(), campaign.to_owned(), first.to_string()])
            }
        };
        let program = match name {
            "defects" => std::env::current_exe()?,
            name => {
                let missing = || io::Error::other(format!("no program {name}"));
                self.0.get(name).cloned().ok_or_else(missing)?
            }
        };
        let mut command = Command::new(program);
        command.args(arguments);
        Ok(command)
    }
}

/// How a scenario ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It found nothing.
    Passed,
    /// It found something, and what it said.
    Failed(String),
    /// It says nothing: it hung, was not there, or ended as it never should.
    Void(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("it passed"),
            Self::Failed(message) => write!(f, "it failed: {message}"),
            Self::Void(why) => write!(f, "it shows nothing: {why}"),
        }
    }
}

/// Runs `scenario` with `defect` switched on, or with none.
pub fn run(programs: &Programs, scenario: Scenario, defect: Option<Defect>) -> Ended {
    match try_run(programs, scenario, defect) {
        Ok(ended) => ended,
        Err(error) => Ended::Void(error.to_string()),
    }
}

fn try_run(programs: &Programs, scenario: Scenario, defect: Option<Defect>) -> io::Result<Ended> {
    let mut command = programs.command(scenario)?;
    command.env(VARIABLE, defect.map_or("", |defect| defect.name));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // Read aside, so that a process that says much does not wait for who waits for it.
    let said = [reader(child.stdout.take()), reader(child.stderr.take())];
    let status = wait(&mut child)?;
    let mut text = String::new();
    for part in said {
        text.push_str(&part.join().unwrap_or_default());
    }
    let Some(status) = status else {
        return Ok(Ended::Void(format!("it did not end within {RUN_MAX:?}")));
    };
    let is_there = !matches!(scenario, Scenario::Test { .. }) || text.contains("running 1 test\n");
    Ok(match status.code() {
        _ if !is_there => Ended::Void("there is no such test".into()),
        Some(0) => Ended::Passed,
        Some(code) if FAILED.contains(&code) => Ended::Failed(message_of(scenario, &text)),
        _ => Ended::Void(format!("{status}: {}", message_of(scenario, &text))),
    })
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was said until it broke is what there is to show.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the end; none where the time is up and the process was ended.
fn wait(child: &mut Child) -> io::Result<Option<std::process::ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() > RUN_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// The line that tells most: what a panic said, or the first line.
fn message_of(scenario: Scenario, text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let line = match (scenario, panic) {
        (Scenario::Test { .. }, Some(at)) => lines.get(at + 1..).map(|rest| rest.join(" ")),
        _ => lines.first().map(|line| (*line).to_owned()),
    };
    line.unwrap_or_default()
}
