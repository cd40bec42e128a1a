//! The table, the ratios against the targets, and a plot.

use std::fmt::Write;

use crate::nodes::Finding;
use crate::workload::Figure;

/// What one engine showed.
pub struct Shown {
    pub engine: &'static str,
    pub figures: Vec<Figure>,
}

impl Shown {
    fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|f| f.name == name)
    }

    /// What is compared: processor time where there is one, for it does not depend on neighbours.
    fn cost(&self, name: &str) -> Option<f64> {
        self.get(name).map(|f| f.cpu.unwrap_or(f.value))
    }
}

/// A ratio that should be reached: how many times cheaper than `peer` the engine is.
struct Target {
    figure: &'static str,
    peer: &'static str,
    ratio: f64,
}

const fn target(figure: &'static str, peer: &'static str, ratio: f64) -> Target {
    Target { figure, peer, ratio }
}

const TARGETS: [Target; 9] = [
    target("get, cached", "rocksdb", 1.5),
    target("get, cached", "fjall", 2.0),
    target("get, missing", "rocksdb", 2.0),
    target("get, missing", "fjall", 2.0),
    target("random fill", "rocksdb", 1.5),
    target("sequential fill", "rocksdb", 1.2),
    target("scan of 10", "rocksdb", 1.2),
    target("write amplification", "rocksdb", 1.0),
    target("space amplification", "rocksdb", 1.0),
];
/// Largest p99.9 of reads while compacting, as a multiple of the quiet one.
const TAIL_RATIO_MAX: f64 = 3.0;
/// Most memory of filter and index, bytes per key.
const RESIDENT_BYTES_PER_KEY_MAX: f64 = 3.0;

/// The class of the machine.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} cores, {}", model.map_or("unknown", |(_, model)| model))
}

/// The table of all figures, in Markdown.
pub fn table(shown: &[Shown]) -> String {
    let mut out = String::from("| measured |");
    for engine in shown {
        let _ = write!(out, " {} |", engine.engine);
    }
    out.push_str("\n|---|");
    out.push_str(&"--:|".repeat(shown.len()));
    let names = shown.first().map(|s| s.figures.as_slice()).unwrap_or_default();
    for Figure { name, .. } in names {
        let _ = write!(out, "\n| {name} |");
        for engine in shown {
            out.push(' ');
            out.push_str(&engine.get(name).map_or_else(|| "–".into(), cell));
            out.push_str(" |");
        }
    }
    out.push('\n');
    out
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// A figure in words.
pub fn cell(figure: &Figure) -> String {
    match figure.cpu {
        Some(cpu) => format!("{} {} (cpu {})", number(figure.value), figure.unit, number(cpu)),
        None => format!("{} {}", number(figure.value), figure.unit),
    }
}

/// What nodes showed, in Markdown.
pub fn nodes(findings: &[Finding]) -> String {
    let mut out = String::from("| three nodes, three replicas | |\n|---|--:|");
    for Finding { what, value, unit, .. } in findings {
        let _ = write!(out, "\n| {what} | {} {unit} |", number(*value));
    }
    out.push('\n');
    out
}

/// The bounds of what nodes showed.
pub fn judge_nodes(findings: &[Finding]) -> (String, usize, usize) {
    let (mut out, mut met, mut missed) = (String::new(), 0, 0);
    for Finding { what, value, unit, most } in findings {
        let Some(most) = most else { continue };
        let (word, count) =
            if value <= most { ("met:", &mut met) } else { ("MISSED:", &mut missed) };
        *count += 1;
        let _ = writeln!(out, "* {word} {what}: {} {unit}, wanted at most {most}", number(*value));
    }
    (out, met, missed)
}

/// Every target with what was reached, and whether all were met.
pub fn judge(shown: &[Shown]) -> (String, usize, usize) {
    let (mut out, mut met, mut missed) = (String::new(), 0, 0);
    let mut say = |holds: bool, text: String| {
        let _ = writeln!(out, "* {} {text}", if holds { "met:" } else { "MISSED:" });
        *(if holds { &mut met } else { &mut missed }) += 1;
    };
    let Some(ours) = shown.first() else { return (out, 0, 0) };
    for Target { figure, peer, ratio } in TARGETS {
        let theirs = shown.iter().find(|s| s.engine == peer).and_then(|s| s.cost(figure));
        let (Some(cost), Some(theirs)) = (ours.cost(figure), theirs) else { continue };
        let reached = theirs / cost;
        say(reached >= ratio, format!("{figure}: {reached:.2}× {peer}, wanted {ratio:.2}×"));
    }
    if let Some(bytes) = ours.cost("filter and index") {
        let holds = bytes <= RESIDENT_BYTES_PER_KEY_MAX;
        say(holds, format!("filter and index: {bytes:.2} B/key, wanted at most 3"));
    }
    let tails = ours.cost("get p99.9, quiet").zip(ours.cost("get p99.9, while compacting"));
    if let Some((quiet, busy)) = tails {
        let ratio = busy / quiet;
        let holds = ratio <= TAIL_RATIO_MAX;
        say(holds, format!("get p99.9 while compacting: {ratio:.1}× quiet, wanted at most 3×"));
    }
    if let Some(stalls) = ours.cost("stalls > 20 ms, while compacting") {
        let longest = ours.cost("longest operation, while compacting").unwrap_or_default();
        let text = format!("stalls > 20 ms while compacting: {stalls} (longest {longest:.1} ms)");
        say(stalls == 0.0, text);
    }
    (out, met, missed)
}

/// Bars of processor time per operation, relative to the first engine.
pub fn plot(shown: &[Shown]) -> String {
    const ROW: usize = 16;
    const COLORS: [&str; 3] = ["#2f6f9f", "#c58a2b", "#8a8a8a"];
    let Some(ours) = shown.first() else { return String::new() };
    let names: Vec<_> = ours.figures.iter().filter(|f| f.cpu.is_some()).map(|f| f.name).collect();
    let height = names.len() * (ROW * shown.len() + 10) + 40;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <text x=\"10\" y=\"20\">processor time per operation, as a multiple of {}</text>\n",
        ours.engine
    );
    let mut y = 36;
    for name in names {
        let _ = writeln!(out, "<text x=\"10\" y=\"{}\">{name}</text>", y + 12);
        for (engine, color) in shown.iter().zip(COLORS.iter().cycle()) {
            if let Some((cost, base)) = engine.cost(name).zip(ours.cost(name)) {
                let ratio = cost / base;
                let width = (ratio * 60.0).min(380.0);
                let _ = writeln!(
                    out,
                    "<rect x=\"200\" y=\"{y}\" width=\"{width:.0}\" height=\"{}\" \
                     fill=\"{color}\"/><text x=\"{:.0}\" y=\"{}\">{} {ratio:.2}</text>",
                    ROW - 3,
                    width + 206.0,
                    y + 11,
                    engine.engine
                );
            }
            y += ROW;
        }
        y += 10;
    }
    out.push_str("</svg>\n");
    out
}
