package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"holdfast/conformance/cluster"
)

const (
	// keys are written before anything is measured; loops take them at random.
	keys = 10_000
	// valueBytes is the size of every value.
	valueBytes = 256
	// connectionsMost is over how many connections the loops are spread, evenly over the nodes.
	connectionsMost = 24
	// warmUpShare of the measured time goes by before it.
	warmUpShare = 5
	// readsOfTen are the reads in ten operations of the mix.
	readsOfTen = 9
	// operationTime is how long one operation may take; a slower one is an error.
	operationTime = 30 * time.Second
	// leaseSeconds outlives every cell.
	leaseSeconds = 3600
)

// sample is what one cell of one system came to.
type sample struct {
	system     int
	workload   string
	clients    int
	perSecond  float64
	p50, p99   time.Duration
	p999       time.Duration
	cpu        time.Duration
	resident   int64
	operations int
}

func (s sample) String() string {
	return fmt.Sprintf("%-20s %4d clients %9.0f/s  p50 %9v  p99 %9v  p99.9 %9v  %6.1f µs CPU  %d MiB",
		s.workload, s.clients, s.perSecond, s.p50, s.p99, s.p999, s.micros(), s.resident>>20)
}

// micros is the processor time of all servers for one operation, in microseconds.
func (s sample) micros() float64 {
	return float64(s.cpu.Nanoseconds()) / 1e3
}

// workload is a kind of operation. `loop` makes what one closed loop repeats; it is called once per
// loop, with the number of the loop.
type workload struct {
	name string
	loop func(ctx context.Context, client *clientv3.Client, number int) (operation, error)
	// run measures in a way of its own, if it is not a closed loop of equal operations.
	run func(ctx context.Context, clients []*clientv3.Client, loops int, record *recorder) error
}

type operation func(ctx context.Context) error

var workloads = []workload{
	{name: "put", loop: puts},
	{name: "range linearizable", loop: ranges()},
	{name: "range serializable", loop: ranges(clientv3.WithSerializable())},
	{name: "mix 90/10", loop: mixed},
	{name: "txn CAS", loop: swaps},
	{name: "watch", run: watch},
	{name: "lease keep-alive", loop: keepAlives},
}

// recorder takes the durations of one loop while the measured time goes on.
type recorder struct {
	mutex sync.Mutex
	all   []time.Duration
	from  time.Time
	until time.Time
}

func (r *recorder) add(some []time.Duration) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.all = append(r.all, some...)
}

func dial(c *cluster.Cluster, connections int) ([]*clientv3.Client, error) {
	var all []*clientv3.Client
	for i := range connections {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:   c.Endpoints[i%len(c.Endpoints) : i%len(c.Endpoints)+1],
			DialTimeout: operationTime, Logger: zap.NewNop(),
		})
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, client)
	}
	return all, nil
}

func closeAll(clients []*clientv3.Client) {
	for _, client := range clients {
		_ = client.Close()
	}
}

// measure runs one cell.
func measure(
	c *cluster.Cluster, w workload, loops int, during time.Duration,
) (sample, error) {
	clients, err := dial(c, min(loops, connectionsMost))
	if err != nil {
		return sample{}, err
	}
	defer closeAll(clients)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := fillKeys(ctx, clients[0]); err != nil {
		return sample{}, err
	}
	from := time.Now().Add(during / warmUpShare)
	record := &recorder{from: from, until: from.Add(during)}
	done := make(chan error, 1)
	go func() {
		if w.run != nil {
			done <- w.run(ctx, clients, loops, record)
		} else {
			done <- closedLoops(ctx, clients, w, loops, record)
		}
	}()
	time.Sleep(time.Until(record.from))
	before, errBefore := c.CPU()
	time.Sleep(time.Until(record.until))
	after, errAfter := c.CPU()
	resident, errResident := c.Resident()
	if err := errors.Join(<-done, errBefore, errAfter, errResident); err != nil {
		return sample{}, err
	}
	return record.sample(w.name, loops, after-before, resident)
}

func (r *recorder) sample(
	name string, loops int, cpu time.Duration, resident int64,
) (sample, error) {
	count := len(r.all)
	if count == 0 {
		return sample{}, errors.New("nothing was done in the measured time")
	}
	slices.Sort(r.all)
	at := func(share float64) time.Duration {
		return r.all[min(int(share*float64(count)), count-1)].Round(time.Microsecond)
	}
	return sample{
		workload: name, clients: loops, operations: count, resident: resident,
		perSecond: float64(count) / r.until.Sub(r.from).Seconds(),
		p50:       at(0.5), p99: at(0.99), p999: at(0.999),
		cpu: cpu / time.Duration(count),
	}, nil
}

func closedLoops(
	ctx context.Context, clients []*clientv3.Client, w workload, loops int, record *recorder,
) error {
	var all sync.WaitGroup
	failures := make(chan error, loops)
	for number := range loops {
		all.Go(func() {
			operation, err := w.loop(ctx, clients[number%len(clients)], number)
			if err == nil {
				err = record.repeat(ctx, operation)
			}
			if err != nil {
				failures <- err
			}
		})
	}
	all.Wait()
	close(failures)
	return <-failures
}

// repeat counts what both began and ended in the measured time.
func (r *recorder) repeat(ctx context.Context, operation operation) error {
	var own []time.Duration
	for {
		begun := time.Now()
		if begun.After(r.until) {
			r.add(own)
			return nil
		}
		limited, cancel := context.WithTimeout(ctx, operationTime)
		err := operation(limited)
		cancel()
		if err != nil {
			return err
		}
		if ended := time.Now(); begun.After(r.from) && ended.Before(r.until) {
			own = append(own, ended.Sub(begun))
		}
	}
}

func key(number int) string {
	return fmt.Sprintf("bench/%010d", number)
}

func value() string {
	bytes := make([]byte, valueBytes)
	for i := range bytes {
		bytes[i] = byte(rand.IntN(256))
	}
	return string(bytes)
}

// fillKeys writes the keys, unless an earlier cell has.
func fillKeys(ctx context.Context, client *clientv3.Client) error {
	there, err := client.Get(ctx, key(0), clientv3.WithRange(key(keys)), clientv3.WithCountOnly())
	if err != nil || there.Count == keys {
		return err
	}
	const atOnce = 100
	for first := 0; first < keys; first += atOnce {
		var puts []clientv3.Op
		for number := first; number < first+atOnce; number++ {
			puts = append(puts, clientv3.OpPut(key(number), value()))
		}
		if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

func puts(_ context.Context, client *clientv3.Client, _ int) (operation, error) {
	value := value()
	return func(ctx context.Context) error {
		_, err := client.Put(ctx, key(rand.IntN(keys)), value)
		return err
	}, nil
}

func ranges(
	options ...clientv3.OpOption,
) func(context.Context, *clientv3.Client, int) (operation, error) {
	return func(_ context.Context, client *clientv3.Client, _ int) (operation, error) {
		return func(ctx context.Context) error {
			got, err := client.Get(ctx, key(rand.IntN(keys)), options...)
			if err == nil && len(got.Kvs) != 1 {
				err = errors.New("a key is missing")
			}
			return err
		}, nil
	}
}

func mixed(ctx context.Context, client *clientv3.Client, number int) (operation, error) {
	read, err := ranges()(ctx, client, number)
	if err != nil {
		return nil, err
	}
	write, err := puts(ctx, client, number)
	return func(ctx context.Context) error {
		if rand.IntN(10) < readsOfTen {
			return read(ctx)
		}
		return write(ctx)
	}, err
}

// swaps are compare-and-swap on a key of the loop's own: each must succeed.
func swaps(ctx context.Context, client *clientv3.Client, number int) (operation, error) {
	own, value := fmt.Sprintf("swap/%06d", number), value()
	put, err := client.Put(ctx, own, value)
	if err != nil {
		return nil, err
	}
	at := put.Header.Revision
	return func(ctx context.Context) error {
		done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(own), "=", at)).
			Then(clientv3.OpPut(own, value)).Commit()
		if err != nil {
			return err
		}
		if !done.Succeeded {
			return fmt.Errorf("%s was changed by somebody else", own)
		}
		at = done.Header.Revision
		return nil
	}, nil
}

// keepAlives go over one stream per loop, as a client's that holds a lease do.
func keepAlives(ctx context.Context, client *clientv3.Client, _ int) (operation, error) {
	granted, err := client.Grant(ctx, leaseSeconds)
	if err != nil {
		return nil, err
	}
	stream, err := pb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	request := &pb.LeaseKeepAliveRequest{ID: int64(granted.ID)}
	return func(context.Context) error {
		if err := stream.Send(request); err != nil {
			return err
		}
		kept, err := stream.Recv()
		if err == nil && kept.TTL != leaseSeconds {
			err = fmt.Errorf("kept for %d s", kept.TTL)
		}
		return err
	}, nil
}

// watch has one writer and as many watches as there are loops; the next put follows when all have
// seen the last. What is measured is the time from the call of the put to each event.
func watch(
	ctx context.Context, clients []*clientv3.Client, loops int, record *recorder,
) error {
	const watched = "watched"
	seen := make(chan time.Time, loops)
	for number := range loops {
		events := clients[number%len(clients)].Watch(ctx, watched, clientv3.WithCreatedNotify())
		if created, isOpen := <-events; !isOpen || !created.Created {
			return fmt.Errorf("a watch was not created: %w", created.Err())
		}
		go func() {
			for response := range events {
				now := time.Now()
				for range response.Events {
					seen <- now
				}
			}
		}()
	}
	value := value()
	var own []time.Duration
	for time.Now().Before(record.until) {
		begun := time.Now()
		if _, err := clients[0].Put(ctx, watched, value); err != nil {
			return err
		}
		var all []time.Duration
		for range loops {
			select {
			case at := <-seen:
				all = append(all, at.Sub(begun))
			case <-time.After(operationTime):
				return errors.New("an event did not arrive")
			}
		}
		if begun.After(record.from) && time.Now().Before(record.until) {
			own = append(own, all...)
		}
	}
	record.add(own)
	return nil
}
