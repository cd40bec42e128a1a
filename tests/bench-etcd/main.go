// Command bench-etcd measures an etcd cluster and a Holdfast cluster, three nodes each, on one
// machine in one session, with one client program in closed loops.
//
// Both clusters run all the time; only one is asked at a time, and which comes first changes from
// cell to cell. What a cell measures is in tests/examples/etcd_load.rs, what has to come out in
// goals.go. The last line sums up; the exit code is 1 if a figure is missed, 2 if the run could not
// be made.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/conformance/cluster"
)

const (
	// nodes of each cluster.
	nodes = 3
	// etcdPort and holdfastPort are the ports before those of the first node's clients.
	etcdPort, holdfastPort = 24790, 24890
)

type options struct {
	etcd, holdfast, load string
	folder, report       string
	etcdVersion          string
	time                 time.Duration
	rounds               int
	clients              []int
	only                 string
}

func main() {
	o, err := parsed()
	if err == nil {
		var missed int
		if missed, err = run(o); err == nil && missed > 0 {
			os.Exit(1)
		}
	}
	if err != nil {
		fmt.Printf("bench-etcd: could not be run: %v\n", err)
		os.Exit(2)
	}
}

func parsed() (*options, error) {
	o := &options{}
	var seconds float64
	var clients string
	flag.StringVar(&o.etcd, "etcd", "", "etcd's server")
	flag.StringVar(&o.etcdVersion, "etcd-version", "", "its version, for the report")
	flag.StringVar(&o.holdfast, "holdfast", "", "the holdfast command, with holdfastd beside it")
	flag.StringVar(&o.load, "load", "", "the client, etcd_load")
	flag.StringVar(&o.folder, "folder", "", "where servers keep their data")
	flag.StringVar(&o.report, "report", "", "folder for table and plot; empty: none")
	flag.Float64Var(&seconds, "seconds", 10, "how long a cell is measured")
	flag.IntVar(&o.rounds, "rounds", 3, "how often every cell is measured; the median counts")
	flag.StringVar(&clients, "clients", "1,64,512", "how many closed loops at once")
	flag.StringVar(&o.only, "only", "", "workloads whose name contains this")
	flag.Parse()
	o.time = time.Duration(seconds * float64(time.Second))
	for _, field := range strings.Split(clients, ",") {
		count, err := strconv.Atoi(field)
		if err != nil || count < 1 || o.rounds < 1 || o.time <= 0 {
			return nil, fmt.Errorf("clients, rounds and seconds are positive numbers")
		}
		o.clients = append(o.clients, count)
	}
	return o, nil
}

func run(o *options) (missed int, err error) {
	if err := os.MkdirAll(o.folder, 0o755); err != nil {
		return 0, err
	}
	etcd, err := cluster.Etcd(o.etcd, filepath.Join(o.folder, "etcd"), nodes, etcdPort)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, etcd.Stop()) }()
	folder := filepath.Join(o.folder, "holdfast")
	holdfast, err := cluster.Holdfast(o.holdfast, folder, nodes, holdfastPort)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, holdfast.Stop()) }()
	measured, failed := measureAll(o, [2]*cluster.Cluster{etcd, holdfast})
	pairs, failedPairs := measureNative(o, holdfast)
	failed = append(failed, failedPairs...)
	cells := medians(measured)
	verdicts := append(judge(cells), judgeNative(pairs)...)
	table := tableOf(cells)
	fmt.Print(table)
	summary, missed := summarize(verdicts, failed)
	for _, verdict := range verdicts {
		fmt.Println(verdict)
	}
	if o.report != "" {
		if err := writeReport(o, cells, verdicts, failed, summary); err != nil {
			return 0, err
		}
	}
	fmt.Println(summary)
	return missed, nil
}

// measureAll goes through all cells as often as there are rounds, the two clusters taking turns. A
// cell in which an operation fails has no figures; why is told.
func measureAll(o *options, clusters [2]*cluster.Cluster) (all []sample, failed []string) {
	turn := 0
	for round := range o.rounds {
		for _, workload := range workloads {
			if !strings.Contains(workload, o.only) {
				continue
			}
			for _, clients := range o.clients {
				for i := range clusters {
					which := (i + turn) % len(clusters)
					got, err := measure(o.load, clusters[which], workload, clients, o.time)
					if err != nil {
						failed = append(failed, fmt.Sprintf("%s, %s, %d clients: %v",
							clusters[which].Name, workload, clients, err))
						fmt.Println("FAILED", failed[len(failed)-1])
						continue
					}
					got.system = which
					all = append(all, got)
					fmt.Printf("round %d  %-8s %s\n", round+1, clusters[which].Name, got)
				}
				turn++
			}
		}
	}
	return all, failed
}

// measureNative puts into Holdfast by the etcd API and by its own, one behind the other, as often as
// there are rounds.
func measureNative(o *options, holdfast *cluster.Cluster) (pairs []nativePair, failed []string) {
	if !strings.Contains(nativePut, o.only) {
		return nil, nil
	}
	for round := range o.rounds {
		var pair nativePair
		order := []string{"put", nativePut}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, workload := range order {
			got, err := measure(o.load, holdfast, workload, judgedAt, o.time)
			if err != nil {
				failed = append(failed, fmt.Sprintf("%s, %s: %v", holdfast.Name, workload, err))
				return pairs, failed
			}
			fmt.Printf("round %d  %-8s %s\n", round+1, holdfast.Name, got)
			if workload == nativePut {
				pair.native = got
			} else {
				pair.etcd = got
			}
		}
		pairs = append(pairs, pair)
	}
	return pairs, failed
}
