package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// tableOf is the result as a table of Markdown.
func tableOf(cells []cell) string {
	var text strings.Builder
	text.WriteString("| workload | clients | system | operations/s | p50 | p99 | p99.9 " +
		"| CPU per operation | of the client | memory of all servers |\n" +
		"|---|--:|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, one := range cells {
		for system, name := range []string{"etcd", "Holdfast"} {
			s := one.systems[system]
			fmt.Fprintf(&text, "| %s | %d | %s | %.0f | %v | %v | %v | %.1f µs | %.1f µs | %d MiB |\n",
				one.workload, one.clients, name, s.perSecond, s.p50, s.p99, s.p999,
				s.micros(), float64(s.client.Nanoseconds())/1e3, s.resident>>20)
		}
	}
	return text.String()
}

func writeReport(
	o *options, cells []cell, verdicts []verdict, failed []string, summary string,
) error {
	if err := os.MkdirAll(o.report, 0o755); err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# Holdfast's etcd API beside etcd\n\n")
	fmt.Fprintf(&text, "%s, three nodes; Holdfast, three nodes; both on one machine with %d cores, "+
		"the client on it too: one thread of closed loops, the same for both, that costs as little "+
		"as can be, because what it takes of the machine hides what tells the servers apart. "+
		"Every cell was measured %d times for %v, the two taking turns; figures are medians. "+
		"CPU is that of all server processes. Made by `make bench-etcd`.\n\n",
		o.etcdVersion, runtime.NumCPU(), o.rounds, o.time)
	text.WriteString("![operations per second and CPU per operation](plot.svg)\n\n")
	text.WriteString(tableOf(cells) + "\n")
	fmt.Fprintf(&text, "## What had to come out\n\n%s.\n\n```text\n", summary)
	for _, one := range verdicts {
		fmt.Fprintln(&text, one)
	}
	for _, one := range failed {
		fmt.Fprintf(&text, "FAILED  %s\n", one)
	}
	text.WriteString("```\n")
	report := filepath.Join(o.report, "report.md")
	if err := os.WriteFile(report, []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.report, "plot.svg"), []byte(plot(cells)), 0o644)
}

// Measures of the plot, in pixels.
const (
	plotWidth, rowHeight, barHeight = 900, 40, 12
	labelWidth, panelWidth          = 230, 300
	top, gap                        = 50, 30
)

// plot draws two panels of bars: how many times etcd's throughput, and which part of its CPU.
func plot(cells []cell) string {
	height := top + rowHeight*len(cells) + gap
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" `+
		`font-family="sans-serif" font-size="12">`+"\n", plotWidth, height)
	fmt.Fprintf(&svg, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, height)
	throughput := panel{labelWidth, "operations/s", "/s",
		func(s sample) float64 { return s.perSecond }}
	cpu := panel{labelWidth + panelWidth + gap, "CPU per operation, µs", " µs", sample.micros}
	for _, p := range []panel{throughput, cpu} {
		p.draw(&svg, cells)
	}
	for i, one := range cells {
		fmt.Fprintf(&svg, `<text x="10" y="%d">%s, %d clients</text>`+"\n",
			top+rowHeight*i+barHeight+4, one.workload, one.clients)
	}
	fmt.Fprintf(&svg, `<text x="10" y="20"><tspan fill="%s">■ etcd</tspan> `+
		`<tspan fill="%s">■ Holdfast</tspan></text>`+"\n</svg>\n", colours[0], colours[1])
	return svg.String()
}

var colours = [2]string{"#9aa5b1", "#1f6feb"}

// panel is one column of bars. Bars of a row share a scale: rows differ too much for one.
type panel struct {
	left   int
	title  string
	unit   string
	figure func(sample) float64
}

func (p panel) draw(svg *strings.Builder, cells []cell) {
	// What is written beside the longest bar.
	const textWidth = 90
	fmt.Fprintf(svg, `<text x="%d" y="20" font-weight="bold">%s</text>`+"\n", p.left, p.title)
	for i, one := range cells {
		most := max(p.figure(one.systems[0]), p.figure(one.systems[1]))
		for system, s := range one.systems {
			width := float64(panelWidth-textWidth) * p.figure(s) / max(most, 1e-9)
			y := top + rowHeight*i + system*(barHeight+2)
			fmt.Fprintf(svg, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n",
				p.left, y, width, barHeight, colours[system])
			fmt.Fprintf(svg, `<text x="%.1f" y="%d">%.0f%s</text>`+"\n",
				float64(p.left)+width+4, y+barHeight-1, p.figure(s), p.unit)
		}
	}
}
