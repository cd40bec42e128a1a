package recipes

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var concurrent = []check{
	{"a mutex has one holder at a time and goes to who waited longest", mutex},
	{"trying a held mutex says that it is held", tryLock},
	{"a mutex is free when the session of its holder ends", mutexOfEnded},
	{"an election has one leader, who is observed and followed", election},
	{"no transfer is lost or made twice at any isolation that promises it", transfers},
	{"an orphaned session ends with its lease", orphan},
}

func (t *trial) session(ttl int) (*concurrency.Session, func(), error) {
	client, err := t.second()
	if err != nil {
		return nil, nil, err
	}
	session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
	if err != nil {
		_ = client.Close()
		return nil, nil, err
	}
	return session, func() { _ = session.Close(); _ = client.Close() }, nil
}

func mutex(t *trial) error {
	const holders, rounds = 5, 6
	var inside, entered atomic.Int32
	var all sync.WaitGroup
	failures := make(chan error, holders)
	for range holders {
		session, end, err := t.session(10)
		if err != nil {
			return err
		}
		defer end()
		all.Go(func() {
			for range rounds {
				m := concurrency.NewMutex(session, t.prefix+"lock")
				if err := m.Lock(t.ctx); err != nil {
					failures <- err
					return
				}
				if inside.Add(1) != 1 {
					failures <- errors.New("two inside at once")
				}
				entered.Add(1)
				// With nothing but a comparison a member would answer from what it has.
				owned, err := t.client.Txn(t.ctx).If(m.IsOwner()).
					Then(clientv3.OpGet(t.prefix + "lock")).Commit()
				if err != nil || !owned.Succeeded {
					failures <- fmt.Errorf("not the owner: %v", err)
				}
				inside.Add(-1)
				if err := m.Unlock(t.ctx); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return expect("times entered", entered.Load(), holders*rounds)
	}
}

func tryLock(t *trial) error {
	first, endFirst, err := t.session(10)
	if err != nil {
		return err
	}
	defer endFirst()
	second, endSecond, err := t.session(10)
	if err != nil {
		return err
	}
	defer endSecond()
	held := concurrency.NewMutex(first, t.prefix+"lock")
	wanted := concurrency.NewMutex(second, t.prefix+"lock")
	if err := held.TryLock(t.ctx); err != nil {
		return err
	}
	if err := wanted.TryLock(t.ctx); !errors.Is(err, concurrency.ErrLocked) {
		return fmt.Errorf("of a held mutex: %v", err)
	}
	if err := held.Unlock(t.ctx); err != nil {
		return err
	}
	return wanted.TryLock(t.ctx)
}

func mutexOfEnded(t *trial) error {
	first, endFirst, err := t.session(2)
	if err != nil {
		return err
	}
	defer endFirst()
	if err := concurrency.NewMutex(first, t.prefix+"lock").Lock(t.ctx); err != nil {
		return err
	}
	first.Orphan()
	second, endSecond, err := t.session(10)
	if err != nil {
		return err
	}
	defer endSecond()
	return concurrency.NewMutex(second, t.prefix+"lock").Lock(t.ctx)
}

func election(t *trial) error {
	first, endFirst, err := t.session(10)
	if err != nil {
		return err
	}
	defer endFirst()
	second, endSecond, err := t.session(10)
	if err != nil {
		return err
	}
	defer endSecond()
	one := concurrency.NewElection(first, t.prefix+"e")
	two := concurrency.NewElection(second, t.prefix+"e")
	if _, err := one.Leader(t.ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		return fmt.Errorf("leader before an election: %v", err)
	}
	if err := one.Campaign(t.ctx, "one"); err != nil {
		return err
	}
	observed := two.Observe(t.ctx)
	if seen := <-observed; string(seen.Kvs[0].Value) != "one" {
		return fmt.Errorf("observed %v", seen.Kvs)
	}
	if err := one.Proclaim(t.ctx, "still one"); err != nil {
		return err
	}
	if seen := <-observed; string(seen.Kvs[0].Value) != "still one" {
		return fmt.Errorf("observed %v", seen.Kvs)
	}
	won := make(chan error, 1)
	go func() { won <- two.Campaign(t.ctx, "two") }()
	select {
	case err := <-won:
		return fmt.Errorf("two leaders: %w", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := one.Resign(t.ctx); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	if seen := <-observed; string(seen.Kvs[0].Value) != "two" {
		return fmt.Errorf("observed %v", seen.Kvs)
	}
	return two.Resign(t.ctx)
}

func transfers(t *trial) error {
	const accounts, clients, rounds, each = 4, 4, 15, 100
	for i, level := range []concurrency.Isolation{
		concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads,
	} {
		// Its reads are serializable: only one member is sure to know what was written through it.
		one := t.endpoints[i%len(t.endpoints):][:1]
		client, err := clientv3.New(configuration(one))
		if err != nil {
			return err
		}
		defer client.Close()
		account := func(i int) string { return fmt.Sprintf("%saccount%d/%d", t.prefix, level, i) }
		for i := range accounts {
			if _, err := client.Put(t.ctx, account(i), strconv.Itoa(each)); err != nil {
				return err
			}
		}
		var all sync.WaitGroup
		failures := make(chan error, clients)
		for c := range clients {
			all.Go(func() {
				for r := range rounds {
					if err := transfer(t.ctx, client, level, account(c%accounts),
						account((c+r+1)%accounts)); err != nil {
						failures <- err
						return
					}
				}
			})
		}
		all.Wait()
		select {
		case err := <-failures:
			return err
		default:
		}
		sum := 0
		for i := range accounts {
			got, err := client.Get(t.ctx, account(i))
			if err != nil {
				return err
			}
			value, err := strconv.Atoi(string(got.Kvs[0].Value))
			if err != nil {
				return err
			}
			sum += value
		}
		if err := expect(fmt.Sprintf("sum at isolation %d", level), sum, accounts*each); err != nil {
			return err
		}
	}
	return nil
}

func transfer(
	ctx context.Context, client *clientv3.Client, level concurrency.Isolation, from, to string,
) error {
	_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
		if from == to {
			return nil
		}
		source, err := strconv.Atoi(s.Get(from))
		if err != nil {
			return err
		}
		target, err := strconv.Atoi(s.Get(to))
		if err != nil {
			return err
		}
		s.Put(from, strconv.Itoa(source-1))
		s.Put(to, strconv.Itoa(target+1))
		return nil
	}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
	return err
}

func orphan(t *trial) error {
	session, end, err := t.session(2)
	if err != nil {
		return err
	}
	defer end()
	if err := t.put("a", "1", clientv3.WithLease(session.Lease())); err != nil {
		return err
	}
	session.Orphan()
	<-session.Done()
	for t.ctx.Err() == nil {
		got, err := t.client.Get(t.ctx, t.prefix+"a")
		if err != nil {
			return err
		}
		if got.Count == 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return t.ctx.Err()
}
