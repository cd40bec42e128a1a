//! Instruments against what they measure: can the checkers fail, and only when they should? What
//! does the simulation promise, and does it keep it?

mod examples;
mod histories;
mod invariants;
mod mutations;
mod public_histories;
mod reference;
mod scheduled;
mod searches;
mod sim;
mod watches;
mod workloads;
