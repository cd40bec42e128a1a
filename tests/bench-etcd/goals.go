package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// judgedAt is the number of clients at which throughput and CPU are judged; p99 is everywhere.
const judgedAt = 64

// mostOfNative is the greatest ratio of what a put by the etcd API costs to what one by Holdfast's
// own costs, CPU of all servers.
const mostOfNative = 1.1

// goal is what Holdfast has to reach beside etcd.
type goal struct {
	workload string
	// faster is the least ratio of Holdfast's operations per second to etcd's.
	faster float64
	// cheaper is the greatest ratio of its CPU per operation to etcd's.
	cheaper float64
}

var goals = []goal{
	{"put", 3, 1.0 / 3},
	{"range linearizable", 2, 1.0 / 2},
	{"range serializable", 1.5, 1.0 / 2},
	{"mix 90/10", 2, 1.0 / 2},
	{"txn CAS", 3, 1.0 / 3},
}

// cell is what both systems came to, the median of all rounds figure by figure.
type cell struct {
	workload string
	clients  int
	systems  [2]sample
}

const etcdSide, holdfastSide = 0, 1

const etcdName = "etcd's"

// medians of all rounds, in the order in which the cells were measured first; what only one system
// could do is left out.
func medians(all []sample) []cell {
	type place struct {
		workload string
		clients  int
	}
	var order []place
	by := map[place]*[2][]sample{}
	for _, one := range all {
		at := place{one.workload, one.clients}
		if by[at] == nil {
			by[at] = &[2][]sample{}
			order = append(order, at)
		}
		by[at][one.system] = append(by[at][one.system], one)
	}
	var cells []cell
	for _, at := range order {
		if len(by[at][etcdSide]) == 0 || len(by[at][holdfastSide]) == 0 {
			continue
		}
		one := cell{workload: at.workload, clients: at.clients}
		for system, rounds := range by[at] {
			one.systems[system] = sample{
				system: system, workload: at.workload, clients: at.clients,
				perSecond: median(rounds, func(s sample) float64 { return s.perSecond }),
				p50:       median(rounds, func(s sample) time.Duration { return s.p50 }),
				p99:       median(rounds, func(s sample) time.Duration { return s.p99 }),
				p999:      median(rounds, func(s sample) time.Duration { return s.p999 }),
				cpu:       median(rounds, func(s sample) time.Duration { return s.cpu }),
				client:    median(rounds, func(s sample) time.Duration { return s.client }),
				resident:  median(rounds, func(s sample) int64 { return s.resident }),
			}
		}
		cells = append(cells, one)
	}
	return cells
}

// median of a figure; of an even number of rounds the lower middle one.
func median[S any, T cmp.Ordered](rounds []S, figure func(S) T) T {
	var all []T
	for _, one := range rounds {
		all = append(all, figure(one))
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// verdict is one figure beside what it has to be.
type verdict struct {
	what    string
	figure  float64
	atLeast bool
	bound   float64
	// beside whose figure it is held.
	beside string
}

func (v verdict) met() bool {
	if v.atLeast {
		return v.figure >= v.bound
	}
	return v.figure <= v.bound
}

func (v verdict) String() string {
	word, sign := "met   ", "≤"
	if !v.met() {
		word = "MISSED"
	}
	if v.atLeast {
		sign = "≥"
	}
	return fmt.Sprintf("%s  %-52s %6.2f × %s (%s %.2f)",
		word, v.what, v.figure, v.beside, sign, v.bound)
}

// judge holds all cells against the goals.
func judge(cells []cell) []verdict {
	var all []verdict
	for _, one := range cells {
		etcd, holdfast := one.systems[etcdSide], one.systems[holdfastSide]
		where := fmt.Sprintf("%s, %d clients", one.workload, one.clients)
		for _, goal := range goals {
			if goal.workload != one.workload || one.clients != judgedAt {
				continue
			}
			all = append(all,
				verdict{where + ": operations/s", holdfast.perSecond / etcd.perSecond, true,
					goal.faster, etcdName},
				verdict{where + ": CPU per operation", holdfast.micros() / etcd.micros(), false,
					goal.cheaper, etcdName})
		}
		p99 := holdfast.p99.Seconds() / etcd.p99.Seconds()
		all = append(all, verdict{where + ": p99", p99, false, 1, etcdName})
	}
	return all
}

// judgeNative holds puts by the etcd API against puts by Holdfast's own: the median of the rounds,
// in each of which the two were measured one behind the other.
func judgeNative(pairs []nativePair) []verdict {
	if len(pairs) == 0 {
		return nil
	}
	ratio := median(pairs, func(pair nativePair) float64 {
		return pair.etcd.micros() / pair.native.micros()
	})
	what := fmt.Sprintf("put by the etcd API, %d clients: CPU per operation", judgedAt)
	return []verdict{{what, ratio, false, mostOfNative, "native put's"}}
}

// summarize counts what is missed, failed cells included, and says so in one line.
func summarize(verdicts []verdict, failed []string) (string, int) {
	missed := len(failed)
	for _, one := range verdicts {
		if !one.met() {
			missed++
		}
	}
	return fmt.Sprintf("bench-etcd: %d figures judged, %d missed (%d cells failed)",
		len(verdicts), missed, len(failed)), missed
}
