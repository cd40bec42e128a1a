package recipes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

var calls = []check{
	{"keys are put, read, listed by prefix and deleted", keysAreKept},
	{"a transaction swaps a value only if nobody else did", swaps},
	{"errors of the server are the client's constants", knowsErrors},
	{"a namespace hides the prefix", namespaces},
	{"ordered reads never go back", ordered},
	{"a mirror holds what its source holds", mirrors},
	{"a lease that is kept alive stays, one that is revoked takes its keys along", leases},
	{"a lease that is left alone ends with its keys", leaseEnds},
	{"a watch tells every change once and in order", watches},
	{"a watch below the compaction ends with its revision", watchCompacted},
	{"progress can be asked for", progress},
	{"members and status are told", members},
	{"a snapshot ends without an error", snapshot},
	{"a client with a name and a password does what its role may", users},
}

func keysAreKept(t *trial) error {
	for i := range 20 {
		if err := t.put(fmt.Sprintf("%02d", i), fmt.Sprint(i)); err != nil {
			return err
		}
	}
	got, err := t.client.Get(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithLimit(5),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return err
	}
	gone, err := t.client.Delete(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return expect("entries", len(got.Kvs), 5) },
		func() error { return expect("count", got.Count, 20) },
		func() error { return expect("more", got.More, true) },
		func() error { return expect("first", string(got.Kvs[0].Value), "19") },
		func() error { return expect("deleted", gone.Deleted, 20) },
		func() error { return expect("previous", string(gone.PrevKvs[7].Value), "7") },
	)
}

func swaps(t *trial) error {
	if err := t.put("a", "1"); err != nil {
		return err
	}
	key := t.prefix + "a"
	swap := func(from, to string) (bool, error) {
		done, err := t.client.Txn(t.ctx).If(clientv3.Compare(clientv3.Value(key), "=", from)).
			Then(clientv3.OpPut(key, to)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return false, err
		}
		return done.Succeeded, nil
	}
	first, err := swap("1", "2")
	if err != nil {
		return err
	}
	second, err := swap("1", "3")
	if err != nil {
		return err
	}
	value, err := t.get("a")
	return errors.Join(err, expect("first", first, true), expect("second", second, false),
		expect("value", value, "2"))
}

func knowsErrors(t *trial) error {
	_, empty := t.client.Put(t.ctx, "", "x")
	_, future := t.client.Get(t.ctx, "a", clientv3.WithRev(1<<50))
	_, lease := t.client.Put(t.ctx, t.prefix+"a", "x", clientv3.WithLease(1<<40))
	_, twice := t.client.Txn(t.ctx).
		Then(clientv3.OpPut(t.prefix, "1"), clientv3.OpPut(t.prefix, "2")).Commit()
	_, long := t.client.Grant(t.ctx, 1<<40)
	_, unknown := t.client.Revoke(t.ctx, 1<<40)
	for _, one := range []struct{ got, want error }{
		{empty, rpctypes.ErrEmptyKey}, {future, rpctypes.ErrFutureRev},
		{lease, rpctypes.ErrLeaseNotFound}, {twice, rpctypes.ErrDuplicateKey},
		{long, rpctypes.ErrLeaseTTLTooLarge}, {unknown, rpctypes.ErrLeaseNotFound},
	} {
		if !errors.Is(one.got, one.want) {
			return fmt.Errorf("%v, not %v", one.got, one.want)
		}
	}
	return nil
}

func namespaces(t *trial) error {
	inside := namespace.NewKV(t.client.KV, t.prefix)
	if _, err := inside.Put(t.ctx, "a", "1"); err != nil {
		return err
	}
	watched := namespace.NewWatcher(t.client.Watcher, t.prefix).Watch(t.ctx, "b")
	if _, err := inside.Txn(t.ctx).If(clientv3.Compare(clientv3.Version("a"), "=", 1)).
		Then(clientv3.OpPut("b", "2"), clientv3.OpGet("a")).Commit(); err != nil {
		return err
	}
	event := <-watched
	if len(event.Events) == 0 {
		return fmt.Errorf("no event: %v", event.Err())
	}
	value, err := t.get("b")
	return errors.Join(err, expect("value", value, "2"),
		expect("key", string(event.Events[0].Kv.Key), "b"))
}

func ordered(t *trial) error {
	violated := false
	reader := ordering.NewKV(t.client.KV,
		func(clientv3.Op, clientv3.OpResponse, int64) error { violated = true; return nil })
	for i := range 50 {
		if err := t.put("a", fmt.Sprint(i)); err != nil {
			return err
		}
		got, err := reader.Get(t.ctx, t.prefix+"a")
		if err != nil {
			return err
		}
		if err := expect("value", string(got.Kvs[0].Value), fmt.Sprint(i)); err != nil {
			return err
		}
	}
	return expect("went back", violated, false)
}

func mirrors(t *trial) error {
	for i := range 30 {
		if err := t.put(fmt.Sprintf("%02d", i), "old"); err != nil {
			return err
		}
	}
	syncer := mirror.NewSyncer(t.client, t.prefix, 0)
	base, failed := syncer.SyncBase(t.ctx)
	copied := map[string]string{}
	for part := range base {
		for _, kv := range part.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	for err := range failed {
		return err
	}
	if err := t.put("05", "new"); err != nil {
		return err
	}
	if _, err := t.client.Delete(t.ctx, t.prefix+"06"); err != nil {
		return err
	}
	seen := 0
	for part := range syncer.SyncUpdates(t.ctx) {
		for _, event := range part.Events {
			seen++
			if event.Type == clientv3.EventTypeDelete {
				delete(copied, string(event.Kv.Key))
			} else {
				copied[string(event.Kv.Key)] = string(event.Kv.Value)
			}
		}
		if seen == 2 {
			break
		}
	}
	return errors.Join(expect("entries", len(copied), 29),
		expect("changed", copied[t.prefix+"05"], "new"))
}

func leases(t *trial) error {
	granted, err := t.client.Grant(t.ctx, 3)
	if err != nil {
		return err
	}
	if err := t.put("a", "1", clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	alive, err := t.client.KeepAlive(t.ctx, granted.ID)
	if err != nil {
		return err
	}
	for begun := time.Now(); time.Since(begun) < 5*time.Second; {
		kept, isOpen := <-alive
		if !isOpen || kept.TTL != 3 {
			return fmt.Errorf("kept alive: %v %v", isOpen, kept)
		}
	}
	left, err := t.client.TimeToLive(t.ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if len(left.Keys) != 1 || left.GrantedTTL != 3 || left.TTL < 1 {
		return fmt.Errorf("time to live: %v", left)
	}
	if _, err := t.client.Revoke(t.ctx, granted.ID); err != nil {
		return err
	}
	got, err := t.client.Get(t.ctx, t.prefix+"a")
	if err != nil {
		return err
	}
	_, once := t.client.KeepAliveOnce(t.ctx, granted.ID)
	if !errors.Is(once, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("keep alive of a revoked lease: %v", once)
	}
	return expect("entries", got.Count, 0)
}

func leaseEnds(t *trial) error {
	granted, err := t.client.Grant(t.ctx, 2)
	if err != nil {
		return err
	}
	var from int64
	for _, key := range []string{"a", "b", "c"} {
		put, err := t.client.Put(t.ctx, t.prefix+key, "1", clientv3.WithLease(granted.ID))
		if err != nil {
			return err
		}
		from = put.Header.Revision + 1
	}
	// From now on would be from what the member has that serves the watch.
	watched := t.client.Watch(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithRev(from))
	ended := <-watched
	if len(ended.Events) != 3 {
		return fmt.Errorf("%d events in the first message: %v, %v",
			len(ended.Events), ended.Events, ended.Err())
	}
	for _, event := range ended.Events {
		if event.Type != clientv3.EventTypeDelete ||
			event.Kv.ModRevision != ended.Events[0].Kv.ModRevision {
			return fmt.Errorf("unexpected event %v", event)
		}
	}
	left, err := t.client.TimeToLive(t.ctx, granted.ID)
	if err != nil {
		return err
	}
	return expect("time to live", left.TTL, -1)
}

func watches(t *trial) error {
	const changes = 500
	watched := t.client.Watch(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	wrote := make(chan error, 1)
	go func() {
		for i := range changes {
			if err := t.put(fmt.Sprint(i%7), fmt.Sprint(i)); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	last, seen := int64(0), 0
	for response := range watched {
		if err := response.Err(); err != nil {
			return err
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision <= last || string(event.Kv.Value) != fmt.Sprint(seen) {
				return fmt.Errorf("event %d: %v after revision %d", seen, event, last)
			}
			if seen >= 7 && string(event.PrevKv.GetValue()) != fmt.Sprint(seen-7) {
				return fmt.Errorf("event %d: before it %v", seen, event.PrevKv)
			}
			last, seen = event.Kv.ModRevision, seen+1
		}
		if seen == changes {
			break
		}
	}
	return errors.Join(<-wrote, expect("events", seen, changes))
}

func watchCompacted(t *trial) error {
	first, err := t.client.Put(t.ctx, t.prefix+"a", "1")
	if err != nil {
		return err
	}
	second, err := t.client.Put(t.ctx, t.prefix+"a", "2")
	if err != nil {
		return err
	}
	at := second.Header.Revision
	if _, err := t.client.Compact(t.ctx, at, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	for t.ctx.Err() == nil {
		told, err := t.once(t.prefix+"a", clientv3.WithRev(first.Header.Revision))
		if err != nil || told.CompactRevision != 0 {
			return errors.Join(expect("compacted at", told.CompactRevision, at),
				expect("is known", errors.Is(err, rpctypes.ErrCompacted), true))
		}
		// A member that has not heard of the compaction yet still tells what was before it.
	}
	return fmt.Errorf("the watch is never told of the compaction")
}

// once is the first that a watch tells.
func (t *trial) once(key string, options ...clientv3.OpOption) (clientv3.WatchResponse, error) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	told := <-t.client.Watch(ctx, key, options...)
	return told, told.Err()
}

func progress(t *trial) error {
	watched := t.client.Watch(t.ctx, t.prefix+"none", clientv3.WithCreatedNotify())
	if created := <-watched; !created.Created {
		return fmt.Errorf("not created: %v", created)
	}
	put, err := t.client.Put(t.ctx, t.prefix+"a", "1")
	if err != nil {
		return err
	}
	for t.ctx.Err() == nil {
		if err := t.client.RequestProgress(t.ctx); err != nil {
			return err
		}
		told := <-watched
		if !told.IsProgressNotify() {
			return fmt.Errorf("not a progress: %v %v", told, told.Err())
		}
		// A node that has not heard of the change yet says so by a lower revision.
		if told.Header.Revision >= put.Header.Revision {
			return nil
		}
	}
	return t.ctx.Err()
}

func members(t *trial) error {
	listed, err := t.client.MemberList(t.ctx)
	if err != nil {
		return err
	}
	if len(listed.Members) == 0 || len(listed.Members[0].ClientURLs) == 0 {
		return fmt.Errorf("no members with addresses: %v", listed.Members)
	}
	for _, endpoint := range t.endpoints {
		status, err := t.client.Status(t.ctx, endpoint)
		if err != nil {
			return err
		}
		if status.Leader == 0 || status.Version == "" || status.RaftTerm == 0 {
			return fmt.Errorf("status of %s: %v", endpoint, status)
		}
	}
	alarms, err := t.client.AlarmList(t.ctx)
	if err != nil {
		return err
	}
	return expect("alarms", len(alarms.Alarms), 0)
}

func snapshot(t *trial) error {
	stream, err := t.client.Snapshot(t.ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	total, piece := 0, make([]byte, 1<<16)
	for {
		read, err := stream.Read(piece)
		total += read
		if err != nil {
			// What follows the archive is its SHA-256; archives come in pages of 512 bytes.
			const page, sum = 512, 32
			return expect(fmt.Sprintf("rest of %d bytes (%v)", total, err), total%page, sum)
		}
	}
}
