//! A small process that outlives this one by a moment and ends what it left behind.
//!
//! A cluster that several tests share has no owner whose `Drop` could end it, and a test run that
//! is killed drops nothing at all. The guardian is told of every process and folder over a pipe;
//! the pipe closing, however this process ended, is its signal. A process is known by its number
//! *and* its start time, so that a reused number is left alone.

use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Reads `process PID START` and `folder PATH` until the pipe closes.
const SCRIPT: &str = r#"
processes= folder=
while read -r what first second; do
  case $what in
    process) processes="$processes $first:$second" ;;
    folder) folder=$first ;;
  esac
done
for process in $processes; do
  id=${process%%:*} start=${process##*:}
  set -- $(sed 's/.*) //' "/proc/$id/stat" 2>/dev/null)
  [ "${20}" = "$start" ] && kill -9 "$id"
done
[ -n "$folder" ] && while read -r _ place _; do
  case $place in "$folder"/*) umount -l "$place" ;; esac
done </proc/mounts
[ -n "$folder" ] && rm -rf "$folder"
"#;

static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();

#[allow(clippy::zombie_processes)] // It ends by itself once this process has.
fn tell(line: &str) {
    let pipe = PIPE.get_or_init(|| {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh exists");
        // It is not waited for: it ends after this process.
        Mutex::new(child.stdin.take().expect("stdin was asked for"))
    });
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}").expect("the guardian listens");
}

/// The process `id` shall end with this one.
pub(crate) fn watch_process(id: u32) {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { return };
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
    if let Some(start) = fields.and_then(|mut fields| fields.nth(19)) {
        tell(&format!("process {id} {start}"));
    }
}

/// The folder (one per run) shall go with this process.
pub(crate) fn watch_folder(path: &Path) {
    tell(&format!("folder {}", path.display()));
}
