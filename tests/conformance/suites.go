package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"holdfast/conformance/cluster"
	"holdfast/conformance/ctl"
	"holdfast/conformance/differ"
	"holdfast/conformance/recipes"
)

const (
	// programTime is how long a client program, or a check of etcdctl, may take.
	programTime = 3 * time.Minute
	// perfAttempts is how often a cluster is judged before a failure counts.
	perfAttempts = 2
)

// suite is one part of a run.
type suite struct {
	name string
	run  func() result
}

func suites(o *options, etcd, holdfast *cluster.Cluster, expected map[string]output) []suite {
	var all []suite
	all = append(all, scripts(o, etcd, holdfast)...)
	all = append(all, gateway(o, etcd, holdfast)...)
	for _, group := range recipes.Groups() {
		all = append(all, suite{"Go " + group, func() result { return recipe(group, etcd, holdfast) }})
	}
	all = append(all,
		session("etcdctl", ctl.Etcdctl{Binary: o.etcdctl}, o, etcd, holdfast),
		session("etcdctl 3.4", ctl.Etcdctl{Binary: o.etcdctlOld, IsOld: true}, o, etcd, holdfast),
		suite{"etcdctl check perf", func() result { return checkPerf(o, etcd, holdfast) }},
	)
	for _, p := range programs(o) {
		all = append(all, suite{p.name, func() result { return p.compare(expected) }})
	}
	return all
}

// asked is a suite of what both servers are asked by a differ.
func asked(
	name string, connect func() (*differ.Differ, error),
	run func(*differ.Differ) (differ.Outcome, error),
) suite {
	return suite{name, func() result {
		d, err := connect()
		if err != nil {
			return result{err: err}
		}
		defer d.Close()
		outcome, err := run(d)
		return result{compared: outcome.Steps, differences: outcome.Differences, err: err}
	}}
}

// scripts come in the order of their names: the first one needs a store nobody has written to.
func scripts(o *options, etcd, holdfast *cluster.Cluster) []suite {
	connect := func() (*differ.Differ, error) {
		return differ.New(etcd.Endpoints[0], holdfast.Endpoints[0])
	}
	files, err := differ.Scripts(o.scripts)
	all := []suite{}
	if err != nil {
		return []suite{{"scripts", func() result { return result{err: err} }}}
	}
	for _, file := range files {
		name := "script " + strings.TrimSuffix(filepath.Base(file), ".jsonl")
		all = append(all, asked(name, connect, func(d *differ.Differ) (differ.Outcome, error) {
			return d.File(file)
		}))
	}
	for seed := 1; seed <= o.seeds; seed++ {
		name := fmt.Sprintf("random seed %d", seed)
		all = append(all, asked(name, connect, func(d *differ.Differ) (differ.Outcome, error) {
			return d.Random(uint64(seed), o.steps)
		}))
	}
	return all
}

// gateway asks in JSON: what the scripts for gRPC call, and the scripts of a folder of its own.
func gateway(o *options, etcd, holdfast *cluster.Cluster) []suite {
	connect := func() (*differ.Differ, error) {
		return differ.NewGateway(
			[2]string{etcd.Endpoints[0], etcd.Pages[0]},
			[2]string{holdfast.Endpoints[0], holdfast.Pages[0]})
	}
	calls, err := differ.Scripts(o.scripts)
	own, ownErr := differ.Scripts(filepath.Join(o.scripts, "gateway"))
	if err = errors.Join(err, ownErr); err != nil {
		return []suite{{"JSON", func() result { return result{err: err} }}}
	}
	var all []suite
	for _, file := range append(calls, own...) {
		// The scripts for gRPC have written to both stores.
		if needs, err := differ.NeedsFreshStore(file); err == nil && needs {
			continue
		}
		name := "JSON " + strings.TrimSuffix(filepath.Base(file), ".jsonl")
		all = append(all, asked(name, connect, func(d *differ.Differ) (differ.Outcome, error) {
			if filepath.Dir(file) == filepath.Clean(o.scripts) {
				return d.Calls(file)
			}
			return d.File(file)
		}))
	}
	return all
}

// recipe runs a group on both; what fails on etcd is a mistake of the check and shown as such.
func recipe(group string, etcd, holdfast *cluster.Cluster) result {
	_, wrong := recipes.Run(group, etcd.Endpoints)
	compared, failures := recipes.Run(group, holdfast.Endpoints)
	for _, mistake := range wrong {
		failures = append(failures, "on etcd: "+mistake)
	}
	return result{compared: compared, differences: failures}
}

func session(
	name string, etcdctl ctl.Etcdctl, o *options, etcd, holdfast *cluster.Cluster,
) suite {
	return suite{name, func() result {
		if etcdctl.Binary == "" {
			return result{skipped: "this version could not be built"}
		}
		var servers [2]ctl.Server
		for i, c := range []*cluster.Cluster{etcd, holdfast} {
			folder, err := os.MkdirTemp(o.folder, "ctl")
			if err != nil {
				return result{err: err}
			}
			defer os.RemoveAll(folder)
			servers[i] = ctl.Server{Endpoints: c.Endpoints, Folder: folder}
		}
		compared, differences, err := ctl.Session(etcdctl, o.session, servers[0], servers[1])
		return result{compared: compared, differences: differences, err: err}
	}}
}

// checkPerf is etcdctl's own judgement of a small cluster: a minute of writes. It judges the machine
// too: Holdfast is asked again after a failure, and nothing is said where etcd fails as well.
func checkPerf(o *options, etcd, holdfast *cluster.Cluster) result {
	var failures []string
	for range perfAttempts {
		isFine, verdicts := judged(o, holdfast)
		if isFine {
			return result{compared: 1}
		}
		failures = append(failures, verdicts)
	}
	if isFine, verdicts := judged(o, etcd); !isFine {
		return result{skipped: "etcd fails here too: " + verdicts}
	}
	return result{compared: 1, differences: failures}
}

var verdict = regexp.MustCompile(`(PASS|FAIL|Error|Slowest)[^\n]*`)

func judged(o *options, c *cluster.Cluster) (bool, string) {
	said := start(o.etcdctl, "--endpoints", strings.Join(c.Endpoints, ","),
		"check", "perf", "--load", "s")
	verdicts := verdict.FindAllString(said.text, -1)
	return said.code == 0 && len(verdicts) > 0, strings.Join(verdicts, "; ")
}

// program is one on a client in another language. It looks for etcd where nobody tells it to.
type program struct {
	name      string
	binary    string
	missing   string
	arguments []string
}

// output of a program.
type output struct {
	text string
	code int
}

func programs(o *options) []program {
	python := program{binary: o.python}
	if o.python == "" {
		python.missing = "no Python with a virtual environment"
	}
	node := program{binary: "node"}
	if o.node == "" {
		node.missing = "no Node with npm"
	}
	java := program{name: "Java calls", binary: "java", arguments: []string{
		"-cp", filepath.Join(o.java, "*"), filepath.Join(o.clients, "java", "Calls.java")}}
	if o.java == "" {
		java.missing = "no JDK with Maven, or no way to where it fetches from"
	}
	rust := program{name: "Rust calls", binary: o.rust}
	if o.rust == "" {
		rust.missing = "the Rust client could not be built"
	}
	of := func(p program, name, file string, more ...string) program {
		p.name, p.arguments = name, append([]string{filepath.Join(o.clients, file)}, more...)
		return p
	}
	return []program{
		of(python, "Python README", "python_readme.py"), of(python, "Python calls", "python_calls.py"),
		of(node, "Node README", "node_readme.js", o.node), of(node, "Node calls", "node_calls.js", o.node),
		java, rust,
	}
}

func (p program) start() output {
	return start(p.binary, p.arguments...)
}

func start(binary string, arguments ...string) output {
	ctx, cancel := context.WithTimeout(context.Background(), programTime)
	defer cancel()
	process := exec.CommandContext(ctx, binary, arguments...)
	var out, complaint bytes.Buffer
	process.Stdout, process.Stderr = &out, &complaint
	err := process.Run()
	said := output{text: out.String()}
	if err != nil {
		said.code = max(process.ProcessState.ExitCode(), 1)
		said.text += complaint.String() + err.Error()
	}
	return said
}

// recordPrograms runs the programs against an etcd that is where they look for one.
func recordPrograms(o *options, r *report) (map[string]output, error) {
	expected := map[string]output{}
	var wanted []program
	for _, p := range programs(o) {
		if p.missing == "" && strings.Contains(p.name, o.only) {
			wanted = append(wanted, p)
		}
	}
	if len(wanted) == 0 {
		return expected, nil
	}
	etcd, err := cluster.Etcd(o.etcd, filepath.Join(o.folder, "etcd"), 1, clientPort-1)
	if err != nil {
		return nil, err
	}
	for _, p := range wanted {
		expected[p.name] = p.start()
		if code := expected[p.name].code; code != 0 {
			mistake := fmt.Errorf("fails on etcd: %s", expected[p.name].text)
			r.add(p.name+" on etcd", result{err: mistake}, 0)
		}
	}
	return expected, etcd.Stop()
}

func (p program) compare(expected map[string]output) result {
	if p.missing != "" {
		return result{skipped: p.missing}
	}
	want, got := expected[p.name], p.start()
	found := result{compared: strings.Count(want.text, "\n")}
	wanted, had := strings.Split(want.text, "\n"), strings.Split(got.text, "\n")
	for i := range max(len(wanted), len(had)) {
		if line(wanted, i) != line(had, i) {
			found.differences = append(found.differences,
				fmt.Sprintf("line %d: %s | %s", i+1, line(wanted, i), line(had, i)))
		}
	}
	if want.code != got.code {
		found.differences = append(found.differences,
			fmt.Sprintf("exit code: %d | %d", want.code, got.code))
	}
	return found
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(no such line)"
}
