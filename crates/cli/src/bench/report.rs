//! The result of measurements as a table for the terminal and as a page.

use serde_json::{Value, json};

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
    /// Whether the row keeps its aim; `None` where it has none. A failed operation misses it.
    pub fn keeps_aim(&self) -> Option<bool> {
        Some(self.errors == 0 && self.times_echo? <= self.aim?)
    }

    fn json(&self) -> Value {
        json!({
            "workload": self.workload, "ranges": self.ranges, "operations_per_second": self.rate,
            "p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "p999_ms": self.p999_ms,
            "cpu_us_per_operation": self.cpu_us, "times_echo": self.times_echo,
            "aim": self.aim, "met": self.keeps_aim(),
            "resident_bytes": self.resident_bytes, "errors": self.errors,
        })
    }

    /// The row of the page; bars are as long as their part of `most_ms`.
    fn html(&self, most_ms: f64) -> String {
        let cells = self.cells().into_iter().map(|cell| match cell.rsplit_once(' ') {
            Some((_, verdict @ ("met" | "missed"))) => {
                format!("<td class={verdict}>{}</td>", escape(&cell))
            }
            _ => format!("<td>{}</td>", escape(&cell)),
        });
        let percent = |ms: f64| 100.0 * ms / most_ms.max(1e-9);
        let (begin, length) = (percent(self.p50_ms), percent(self.p99_ms - self.p50_ms));
        let bar = format!("<i style=\"margin-left:{begin:.1}%;width:{length:.1}%\"></i>");
        format!("<tr>{}<td class=bar>{bar}</td></tr>\n", cells.collect::<String>())
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

/// Everything a benchmark found out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One line for every measurement.
    pub rows: Vec<Row>,
    /// What it ran with, as a sentence.
    pub setting: String,
    /// What it ran on, as a sentence.
    pub machine: String,
    /// Share of a core each node used with nothing to do; none where that was not measured.
    pub idle: Option<Idle>,
    /// Single figures, some with a bound.
    pub findings: Vec<Finding>,
}

/// A single figure.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was measured.
    pub what: String,
    /// What came out.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Most it should be; `None` where it is told for orientation.
    pub most: Option<f64>,
}

/// A figure for orientation.
pub fn told(what: &str, value: f64, unit: &'static str) -> Finding {
    Finding { what: what.into(), value, unit, most: None }
}

/// A figure that should be at most `most`.
pub fn bound(what: &str, value: f64, unit: &'static str, most: f64) -> Finding {
    Finding { what: what.into(), value, unit, most: Some(most) }
}

impl Finding {
    /// Whether it stays within its bound; `None` where there is none.
    pub fn keeps_aim(&self) -> Option<bool> {
        Some(self.value <= self.most?)
    }

    fn sentence(&self) -> String {
        let Self { what, value, unit, .. } = self;
        match (self.most, self.keeps_aim()) {
            (Some(most), Some(true)) => format!("{what}: {value:.2} {unit} (aim ≤ {most}: met)"),
            (Some(most), _) => format!("{what}: {value:.2} {unit} (aim ≤ {most}: missed)"),
            (None, _) => format!("{what}: {value:.2} {unit}"),
        }
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what, "value": self.value, "unit": self.unit,
            "aim": self.most, "met": self.keeps_aim(),
        })
    }
}

/// Processor time of nodes that have nothing to do.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Per cent of one core, by node.
    pub percent: Vec<f64>,
    /// Ranges of the keyspace that is idle.
    pub ranges: u32,
    /// How long it was measured.
    pub seconds: u64,
    /// Most it should be.
    pub percent_max: f64,
}

impl Idle {
    /// Whether every node keeps the aim.
    pub fn keeps_aim(&self) -> bool {
        self.percent.iter().all(|percent| *percent <= self.percent_max)
    }

    fn sentence(&self) -> String {
        let percent: Vec<String> = self.percent.iter().map(|p| format!("{p:.1} %")).collect();
        let verdict = if self.keeps_aim() { "met" } else { "missed" };
        format!(
            "idle for {} s, {} more ranges: {} of one core per node (aim ≤ {} %: {verdict})",
            self.seconds,
            self.ranges,
            percent.join(", "),
            self.percent_max,
        )
    }
}

impl Report {
    /// Nothing yet, of this machine.
    pub fn new() -> Self {
        Self { machine: machine(), ..Self::default() }
    }

    /// How many aims were met, and how many there are.
    pub fn aims(&self) -> (usize, usize) {
        let idle = self.idle.iter().map(Idle::keeps_aim);
        let rows = self.rows.iter().filter_map(Row::keeps_aim);
        let findings = self.findings.iter().filter_map(Finding::keeps_aim);
        let aims: Vec<bool> = rows.chain(idle).chain(findings).collect();
        (aims.iter().filter(|met| **met).count(), aims.len())
    }

    /// The one line that sums up.
    pub fn summary(&self) -> String {
        let (met, total) = self.aims();
        let errors: u64 = self.rows.iter().map(|row| row.errors).sum();
        format!("bench: {met} of {total} aims met, {errors} errors; {}", self.setting)
    }

    /// For the terminal; the last line sums up where there are aims.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.rows.is_empty() {
            let mut table = Table::new(HEADS);
            self.rows.iter().for_each(|row| table.row(row.cells()));
            text = table.render();
        }
        for finding in &self.findings {
            text.push_str(&format!("{}\n", finding.sentence()));
        }
        if let Some(idle) = &self.idle {
            text.push_str(&format!("{}\n", idle.sentence()));
        }
        if self.aims().1 > 0 {
            text.push_str(&format!("{}\n", self.summary()));
        }
        text
    }

    /// For programs: one document.
    pub fn json(&self) -> Value {
        let (met, total) = self.aims();
        let idle = self.idle.as_ref().map(|idle| {
            json!({
                "percent_of_core": idle.percent, "ranges": idle.ranges,
                "seconds": idle.seconds, "aim": idle.percent_max, "met": idle.keeps_aim(),
            })
        });
        json!({
            "setting": self.setting, "machine": self.machine, "idle": idle,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "aims_met": met, "aims": total,
        })
    }

    /// A page of its own: what ran where, every figure, and latencies to compare by eye.
    pub fn html(&self) -> String {
        let head: String = HEADS.iter().map(|head| format!("<th>{head}</th>")).collect();
        let most = self.rows.iter().map(|row| row.p99_ms).fold(0.0, f64::max);
        let body: String = self.rows.iter().map(|row| row.html(most)).collect();
        let findings = self.findings.iter().map(Finding::sentence);
        let sentences = findings.chain(self.idle.iter().map(Idle::sentence));
        let sentences: Vec<String> = sentences.map(|text| escape(&text)).collect();
        let summary = if self.aims().1 > 0 { self.summary() } else { self.setting.clone() };
        format!(
            "<!doctype html>\n<html lang=en><meta charset=utf-8>\n\
             <title>Holdfast benchmark</title>\n\
             <style>{STYLE}</style>\n<h1>Holdfast benchmark</h1>\n<p>{}<br>{}</p>\n\
             <table>\n<tr>{head}<th>p50 to p99</th></tr>\n{body}</table>\n<p>{}</p>\n{LEGEND}\n",
            escape(&summary),
            escape(&self.machine),
            sentences.join("<br>"),
        )
    }
}

/// How the page looks.
const STYLE: &str = ":root{color-scheme:light dark}body{font:15px system-ui,sans-serif;margin:2em}\
    table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:right;\
    border-bottom:1px solid #8884}td:first-child,th:first-child{text-align:left}\
    .met{color:#2a8}.missed{color:#d43}.bar{width:14em;text-align:left}\
    .bar i{display:inline-block;height:.7em;background:#48c}";

/// What the columns mean.
const LEGEND: &str = "<p>Closed loop: every client has one operation under way. \
    <b>cpu us/op</b>: processor time of all server processes together, per operation. \
    <b>x echo</b>: the same as a multiple of a gRPC server that answers with messages of the same \
    sizes and does nothing else, measured in the same run. <b>rss</b>: the largest server \
    process.</p>";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The machine this runs on.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores, {model}; clients and servers on the same machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
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
        }
    }

    fn report(row: Row, percent: f64) -> Report {
        let idle = Idle { percent: vec![1.0, percent], ranges: 64, seconds: 60, percent_max: 7.0 };
        let finding = Finding { what: "restart".into(), value: 2.5, unit: "s", most: Some(3.0) };
        Report {
            rows: vec![row],
            setting: "s".into(),
            machine: "m".into(),
            idle: Some(idle),
            findings: vec![finding],
        }
    }

    #[test]
    fn a_missed_aim_is_said_and_counted() {
        let good = report(row(), 2.0);
        assert!(good.text().contains("4.5 met") && good.text().contains("%: met"));
        assert!(good.text().ends_with("bench: 3 of 3 aims met, 0 errors; s\n"));
        let slow = report(Row { times_echo: Some(5.0), ..row() }, 9.0);
        assert!(slow.text().contains("4.5 missed") && slow.text().contains("%: missed"));
        assert_eq!(slow.aims(), (1, 3));
        assert_eq!(slow.json()["aims_met"], 1);
    }

    #[test]
    fn a_finding_above_its_bound_is_missed_and_one_without_is_only_told() {
        let finding = Finding { what: "w".into(), value: 3.5, unit: "s", most: Some(3.0) };
        assert_eq!(finding.sentence(), "w: 3.50 s (aim ≤ 3: missed)");
        let told = Finding { most: None, ..finding };
        assert_eq!((told.keeps_aim(), told.sentence().as_str()), (None, "w: 3.50 s"));
    }

    #[test]
    fn a_figure_that_rests_on_failed_operations_misses_its_aim() {
        let failing = Row { errors: 1, ..row() };
        assert_eq!(failing.keeps_aim(), Some(false));
    }

    #[test]
    fn the_page_shows_every_figure_and_escapes_what_it_is_given() {
        let mut report = report(Row { workload: "a<b".into(), ..row() }, 2.0);
        report.machine = "x & y".into();
        let page = report.html();
        for part in [
            "<td>a&lt;b</td>",
            "x &amp; y",
            "<td>1000</td>",
            "class=met",
            "idle for 60 s",
            "restart: 2.50 s",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }
}
