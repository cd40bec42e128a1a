package recipes

import (
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

var queues = []check{
	{"a queue hands out everything once, oldest first", queue},
	{"a priority queue hands out the most urgent first", priorities},
	{"a barrier holds everybody until it is released", barrier},
	{"a double barrier lets nobody in or out before all are there", doubleBarrier},
	{"a read-write mutex has many readers or one writer", readWrite},
}

var kubernetesClient = []check{
	{"objects are created, updated and deleted only at the expected revision", objects},
	{"a list goes on page by page at the revision of its first", pages},
}

func queue(t *trial) error {
	q := recipe.NewQueue(t.client, t.prefix+"q")
	for i := range 20 {
		if err := q.Enqueue(fmt.Sprint(i)); err != nil {
			return err
		}
	}
	for i := range 20 {
		value, err := q.Dequeue()
		if err := errors.Join(err, expect("value", value, fmt.Sprint(i))); err != nil {
			return err
		}
	}
	late := make(chan string, 1)
	go func() {
		value, err := q.Dequeue()
		late <- fmt.Sprint(value, err)
	}()
	time.Sleep(100 * time.Millisecond)
	if err := q.Enqueue("late"); err != nil {
		return err
	}
	return expect("who waited has", <-late, fmt.Sprint("late", nil))
}

func priorities(t *trial) error {
	q := recipe.NewPriorityQueue(t.client, t.prefix+"q")
	for i := range 10 {
		if err := q.Enqueue(fmt.Sprint(i), uint16(10-i)); err != nil {
			return err
		}
	}
	for i := range 10 {
		value, err := q.Dequeue()
		if err := errors.Join(err, expect("value", value, fmt.Sprint(9-i))); err != nil {
			return err
		}
	}
	return nil
}

func barrier(t *trial) error {
	b := recipe.NewBarrier(t.client, t.prefix+"b")
	if err := b.Hold(); err != nil {
		return err
	}
	passed := make(chan error, 3)
	for range 3 {
		go func() { passed <- b.Wait() }()
	}
	select {
	case <-passed:
		return errors.New("passed while it was held")
	case <-time.After(300 * time.Millisecond):
	}
	if err := b.Release(); err != nil {
		return err
	}
	return errors.Join(<-passed, <-passed, <-passed)
}

func doubleBarrier(t *trial) error {
	const members = 3
	entered, left := make(chan error, members), make(chan error, members)
	var mayLeave sync.WaitGroup
	mayLeave.Add(1)
	join := func() error {
		session, end, err := t.session(10)
		if err != nil {
			return err
		}
		go func() {
			defer end()
			b := recipe.NewDoubleBarrier(session, t.prefix+"b", members)
			entered <- b.Enter()
			mayLeave.Wait()
			left <- b.Leave()
		}()
		return nil
	}
	for range members - 1 {
		if err := join(); err != nil {
			return err
		}
	}
	select {
	case err := <-entered:
		return fmt.Errorf("entered alone: %w", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := join(); err != nil {
		return err
	}
	if err := errors.Join(<-entered, <-entered, <-entered); err != nil {
		return err
	}
	mayLeave.Done()
	return errors.Join(<-left, <-left, <-left)
}

func readWrite(t *trial) error {
	var all []*recipe.RWMutex
	for range 3 {
		session, end, err := t.session(10)
		if err != nil {
			return err
		}
		defer end()
		all = append(all, recipe.NewRWMutex(session, t.prefix+"rw"))
	}
	if err := errors.Join(all[0].RLock(), all[1].RLock()); err != nil {
		return err
	}
	writes := make(chan error, 1)
	go func() { writes <- all[2].Lock() }()
	select {
	case err := <-writes:
		return fmt.Errorf("wrote while others read: %w", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := errors.Join(all[0].RUnlock(), all[1].RUnlock(), <-writes); err != nil {
		return err
	}
	return all[2].Unlock()
}

func (t *trial) kubernetes() (*kubernetes.Client, error) {
	return kubernetes.New(configuration(t.endpoints))
}

func objects(t *trial) error {
	client, err := t.kubernetes()
	if err != nil {
		return err
	}
	defer client.Close()
	k, key := client.Kubernetes, t.prefix+"pod"
	again := kubernetes.PutOptions{GetOnFailure: true}
	created, err := k.OptimisticPut(t.ctx, key, []byte("1"), 0, kubernetes.PutOptions{})
	if err != nil {
		return err
	}
	twice, err := k.OptimisticPut(t.ctx, key, []byte("2"), 0, again)
	if err != nil {
		return err
	}
	updated, err := k.OptimisticPut(t.ctx, key, []byte("3"), created.Revision, again)
	if err != nil {
		return err
	}
	late, err := k.OptimisticDelete(t.ctx, key, created.Revision,
		kubernetes.DeleteOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	gone, err := k.OptimisticDelete(t.ctx, key, updated.Revision, kubernetes.DeleteOptions{})
	if err != nil {
		return err
	}
	got, err := k.Get(t.ctx, key, kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	old, err := k.Get(t.ctx, key, kubernetes.GetOptions{Revision: created.Revision})
	return errors.Join(err,
		expect("created", created.Succeeded, true), expect("created twice", twice.Succeeded, false),
		expect("what stood there", string(twice.KV.GetValue()), "1"),
		expect("updated", updated.Succeeded, true), expect("deleted late", late.Succeeded, false),
		expect("what stood there then", late.KV.GetModRevision(), updated.Revision),
		expect("deleted", gone.Succeeded, true), expect("is there", got.KV != nil, false),
		expect("was there", string(old.KV.GetValue()), "1"))
}

func pages(t *trial) error {
	client, err := t.kubernetes()
	if err != nil {
		return err
	}
	defer client.Close()
	for i := range 25 {
		if err := t.put(fmt.Sprintf("%02d", i), "1"); err != nil {
			return err
		}
	}
	const page = 10
	seen, at, options := 0, int64(0), kubernetes.ListOptions{Limit: page}
	for {
		listed, err := client.Kubernetes.List(t.ctx, t.prefix, options)
		if err != nil {
			return err
		}
		if at == 0 {
			at = listed.Revision
			if _, err := t.client.Delete(t.ctx, t.prefix, clientv3.WithPrefix()); err != nil {
				return err
			}
		}
		seen += len(listed.Kvs)
		if int64(len(listed.Kvs)) == listed.Count {
			break
		}
		last := listed.Kvs[len(listed.Kvs)-1]
		options = kubernetes.ListOptions{Limit: page, Revision: at, Continue: string(last.Key) + "\x00"}
	}
	count, err := client.Kubernetes.Count(t.ctx, t.prefix, kubernetes.CountOptions{})
	return errors.Join(err, expect("seen", seen, 25), expect("left", count, 0))
}
