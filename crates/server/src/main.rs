//! `holdfastd`, by the clocks of the machine.

use std::process::ExitCode;
use std::sync::Arc;

use holdfast_env::real::RealClock;

fn main() -> ExitCode {
    holdfast_server::run(Arc::new(RealClock))
}
