//! What three real nodes show: `holdfast bench restart` and `holdfast bench expiry`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Gigabytes were deleted before; a disk that is told of freed blocks is slow until it knows them.
const CALM: Duration = Duration::from_secs(30);

/// One figure of a run, with its bound where it has one.
pub struct Finding {
    pub what: String,
    pub value: f64,
    pub unit: String,
    pub most: Option<f64>,
}

/// Runs both with the command line at `holdfast`.
pub fn run(holdfast: &Path, restart_keys: u64, expiry_keys: u64) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (workload, keys) in [("expiry", expiry_keys), ("restart", restart_keys)] {
        let keys = keys.to_string();
        rustix::fs::sync();
        thread::sleep(CALM);
        let output = Command::new(holdfast)
            .args(["--output", "json", "bench", workload, "--keys", &keys])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| holdfast.display().to_string())?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("bench {workload} ended with {}", output.status))?;
        let list = report["findings"].as_array().context("a list of findings")?;
        if list.is_empty() {
            bail!("bench {workload} found nothing");
        }
        for found in list {
            findings.push(Finding {
                what: format!("{workload}: {}", found["what"].as_str().unwrap_or_default()),
                value: found["value"].as_f64().context("a figure")?,
                unit: found["unit"].as_str().unwrap_or_default().to_owned(),
                most: found["aim"].as_f64(),
            });
        }
    }
    Ok(findings)
}
