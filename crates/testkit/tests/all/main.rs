//! Instruments against what they measure.

mod sim;
