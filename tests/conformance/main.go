// Command conformance holds Holdfast's etcd API against etcd itself.
//
// It starts an etcd of one member and three nodes of Holdfast and asks both the same: scripts and
// generated requests, in gRPC and in JSON (package differ), the Go client's calls and recipes
// (recipes), sessions of etcdctl (ctl), programs on the Python, Node, Java and Rust clients
// (clients). Each is a suite; what is compared after which mask is written beside the comparison.
// The last line sums up; the exit code is 1 if anything differs, 2 if the run itself could not be
// made.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/conformance/cluster"
)

const (
	// clientPort is where clients look for an etcd that nobody told them about.
	clientPort = 2379
	// referencePort is where etcd is while Holdfast is on clientPort.
	referencePort = 2479
	// holdfastNodes is as many as `make cluster` starts.
	holdfastNodes = 3
)

// options of a run.
type options struct {
	etcd, etcdctl, etcdctlOld, holdfast string
	scripts, session, clients, folder   string
	python, node, java, rust            string
	seeds, steps                        int
	only                                string
}

// report is what has been found so far.
type report struct {
	compared, differing, suites int
	skipped                     []string
}

func main() {
	var o options
	flag.StringVar(&o.etcd, "etcd", "", "etcd's server")
	flag.StringVar(&o.etcdctl, "etcdctl", "", "etcdctl of the same version")
	flag.StringVar(&o.etcdctlOld, "etcdctl-old", "", "etcdctl of version 3.4; may be missing")
	flag.StringVar(&o.holdfast, "holdfast", "", "the holdfast command, with holdfastd beside it")
	flag.StringVar(&o.scripts, "scripts", "scripts", "folder of scripts")
	flag.StringVar(&o.session, "session", "ctl/session.jsonl", "session of etcdctl")
	flag.StringVar(&o.clients, "clients", "clients", "folder of client programs")
	flag.StringVar(&o.folder, "folder", "", "where servers may keep their data")
	flag.StringVar(&o.python, "python", "", "Python with the client installed; may be missing")
	flag.StringVar(&o.node, "node", "", "folder in which npm installed the client; may be missing")
	flag.StringVar(&o.java, "java", "", "folder with the Java client's archives; may be missing")
	flag.StringVar(&o.rust, "rust", "", "program on the Rust client; may be missing")
	flag.IntVar(&o.seeds, "seeds", 10, "generated sequences of requests")
	flag.IntVar(&o.steps, "steps", 300, "requests in each of them")
	flag.StringVar(&o.only, "only", "", "run suites whose name contains this")
	flag.Parse()
	r := &report{}
	if err := run(&o, r); err != nil {
		fmt.Printf("conformance: could not be run: %v\n", err)
		os.Exit(2)
	}
	skipped := ""
	if len(r.skipped) > 0 {
		skipped = ", SKIPPED: " + strings.Join(r.skipped, ", ")
	}
	fmt.Printf("conformance: %d answers in %d suites compared with etcd, %d differ%s\n",
		r.compared, r.suites, r.differing, skipped)
	if r.differing > 0 || r.compared == 0 {
		os.Exit(1)
	}
}

func run(o *options, r *report) (err error) {
	if err := os.MkdirAll(o.folder, 0o755); err != nil {
		return err
	}
	// What an interrupted run has left would be taken for the etcd that is started first.
	folder := filepath.Join(o.folder, "holdfast")
	if err := cluster.Wipe(o.holdfast, folder, clientPort-1); err != nil {
		return err
	}
	expected, err := recordPrograms(o, r)
	if err != nil {
		return err
	}
	etcd, err := cluster.Etcd(o.etcd, filepath.Join(o.folder, "etcd"), 1, referencePort-1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, etcd.Stop()) }()
	holdfast, err := cluster.Holdfast(o.holdfast, folder, holdfastNodes, clientPort-1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, holdfast.Stop()) }()
	for _, suite := range suites(o, etcd, holdfast, expected) {
		if !strings.Contains(suite.name, o.only) {
			continue
		}
		begun := time.Now()
		r.add(suite.name, suite.run(), time.Since(begun))
	}
	return nil
}

// result of a suite. An error is as bad as a difference: what could not be asked is not equal.
type result struct {
	compared    int
	differences []string
	err         error
	skipped     string
}

func (r *report) add(name string, result result, took time.Duration) {
	if result.skipped != "" {
		fmt.Printf("  SKIP %-28s %s\n", name, result.skipped)
		r.skipped = append(r.skipped, name)
		return
	}
	if result.err != nil {
		result.differences = append(result.differences, result.err.Error())
	}
	word := "ok"
	if len(result.differences) > 0 {
		word = "FAIL"
	}
	fmt.Printf("  %-4s %-28s %5d compared, %d differ (%.1f s)\n",
		word, name, result.compared, len(result.differences), took.Seconds())
	for _, difference := range result.differences {
		fmt.Printf("    %s\n", difference)
	}
	r.suites++
	r.compared += result.compared
	r.differing += len(result.differences)
}
