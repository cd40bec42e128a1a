package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"holdfast/conformance/cluster"
)

// workloads are the kinds of operations that the client knows; what each does is told there, in
// tests/examples/etcd_load.rs, as are keys and values.
var workloads = []string{
	"put", "range linearizable", "range serializable", "mix 90/10", "txn CAS", "watch",
	"lease keep-alive",
}

// nativePut is put by Holdfast's own API; etcd has none of it.
const nativePut = "native put"

// sample is what one cell of one system came to.
type sample struct {
	system    int
	workload  string
	clients   int
	perSecond float64
	p50, p99  time.Duration
	p999      time.Duration
	// cpu is the processor time of all servers for one operation, client that of the client.
	cpu, client time.Duration
	resident    int64
}

func (s sample) String() string {
	return fmt.Sprintf("%-20s %4d clients %9.0f/s  p50 %9v  p99 %9v  p99.9 %9v  %6.1f µs CPU  "+
		"%5.1f µs of the client  %d MiB",
		s.workload, s.clients, s.perSecond, s.p50, s.p99, s.p999, s.micros(),
		float64(s.client.Nanoseconds())/1e3, s.resident>>20)
}

// micros is the processor time of all servers for one operation, in microseconds.
func (s sample) micros() float64 {
	return float64(s.cpu.Nanoseconds()) / 1e3
}

// nativePair is what one round of puts into Holdfast came to by either API.
type nativePair struct {
	etcd, native sample
}

// measure runs one cell: the client as a process of its own.
func measure(
	load string, c *cluster.Cluster, workload string, clients int, during time.Duration,
) (sample, error) {
	command := exec.Command(load, "--workload", workload, "--clients", strconv.Itoa(clients),
		"--seconds", strconv.FormatFloat(during.Seconds(), 'f', -1, 64),
		"--endpoints", strings.Join(c.Endpoints, ","), "--pids", strings.Join(c.PIDs(), ","))
	var complaint bytes.Buffer
	command.Stderr = &complaint
	said, err := command.Output()
	if err != nil {
		return sample{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	var told struct {
		PerSecond     float64 `json:"per_second"`
		P50           float64 `json:"p50_us"`
		P99           float64 `json:"p99_us"`
		P999          float64 `json:"p999_us"`
		CPU           float64 `json:"cpu_us"`
		ClientCPU     float64 `json:"client_cpu_us"`
		ResidentBytes int64   `json:"resident_bytes"`
	}
	if err := json.Unmarshal(said, &told); err != nil {
		return sample{}, fmt.Errorf("the client said %q: %w", said, err)
	}
	micros := func(figure float64) time.Duration {
		return time.Duration(figure * float64(time.Microsecond))
	}
	return sample{
		workload: workload, clients: clients, perSecond: told.PerSecond,
		p50: micros(told.P50), p99: micros(told.P99), p999: micros(told.P999),
		cpu: micros(told.CPU), client: micros(told.ClientCPU), resident: told.ResidentBytes,
	}, nil
}
