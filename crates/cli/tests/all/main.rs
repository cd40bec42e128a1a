//! The program itself, on files that lie here.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used)] // a test may stop where it stands

mod inspect;
