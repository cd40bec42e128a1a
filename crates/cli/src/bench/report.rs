//! The result of measurements as a table for the terminal and as a page.

use crate::output::Table;

/// One line of the result.
#[derive(Clone, Debug)]
pub struct Row {
    /// What ran.
    pub workload: String,
    /// On how many ranges; 0 = does not apply.
    pub ranges: u32,
    /// Successes a second.
    pub rate: f64,
    /// Latencies, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 stayed below.
    pub p99_ms: f64,
    /// 999 of 1,000 stayed below.
    pub p999_ms: f64,
    /// Processor time of all server processes per operation, microseconds.
    pub cpu_us: Option<f64>,
    /// The same as a multiple of the echo's.
    pub times_echo: Option<f64>,
    /// What the multiple should be at most.
    pub aim: Option<f64>,
    /// Largest server process, bytes in RAM.
    pub resident_bytes: Option<u64>,
    /// Failed operations.
    pub errors: u64,
}

impl Row {
    /// Whether the row keeps its aim; `None` where it has none.
    pub fn keeps_aim(&self) -> Option<bool> {
        Some(self.times_echo? <= self.aim?)
    }

    fn cells(&self) -> Vec<String> {
        let optional = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let aim = match (self.aim, self.keeps_aim()) {
            (Some(aim), Some(true)) => format!("{aim:.1} met"),
            (Some(aim), Some(false)) => format!("{aim:.1} missed"),
            (aim, _) => optional(aim.map(|a| format!("{a:.1}"))),
        };
        vec![
            self.workload.clone(),
            if self.ranges == 0 { "-".into() } else { self.ranges.to_string() },
            format!("{:.0}", self.rate),
            format!("{:.2}", self.p50_ms),
            format!("{:.2}", self.p99_ms),
            format!("{:.2}", self.p999_ms),
            optional(self.cpu_us.map(|us| format!("{us:.1}"))),
            optional(self.times_echo.map(|x| format!("{x:.2}"))),
            aim,
            optional(self.resident_bytes.map(|b| format!("{}", b >> 20))),
            self.errors.to_string(),
        ]
    }
}

const HEADS: [&str; 11] = [
    "workload",
    "ranges",
    "ops/s",
    "p50 ms",
    "p99 ms",
    "p999 ms",
    "cpu us/op",
    "x echo",
    "aim",
    "rss MiB",
    "errors",
];

/// The rows as aligned text.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new(HEADS);
    for row in rows {
        table.row(row.cells());
    }
    table.render()
}

/// The rows as a page of its own.
pub fn html(title: &str, rows: &[Row]) -> String {
    let cell = |tag: &str, text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        format!("<{tag}>{text}</{tag}>")
    };
    let line = |tag: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|c| cell(tag, c)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head = line("th", HEADS.iter().map(|h| (*h).to_owned()).collect());
    let body: String = rows.iter().map(|r| line("td", r.cells())).collect();
    format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title>\n<style>body{{font:15px \
         system-ui;margin:2em}}td,th{{padding:.3em .8em;text-align:right;border-bottom:1px solid \
         #ddd}}td:first-child,th:first-child{{text-align:left}}</style>\n<h1>{title}</h1>\n\
         <table>\n{head}{body}</table>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_aim_is_said() {
        let mut row = Row {
            workload: "put".into(),
            ranges: 1,
            rate: 1000.0,
            p50_ms: 1.0,
            p99_ms: 2.0,
            p999_ms: 3.0,
            cpu_us: Some(100.0),
            times_echo: Some(4.0),
            aim: Some(4.5),
            resident_bytes: Some(64 << 20),
            errors: 0,
        };
        assert!(text(std::slice::from_ref(&row)).contains("4.5 met"));
        row.times_echo = Some(5.0);
        assert!(text(std::slice::from_ref(&row)).contains("4.5 missed"));
        assert!(html("t", &[row]).contains("<td>put</td>"));
    }
}
