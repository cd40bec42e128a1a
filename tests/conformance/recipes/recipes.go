// Package recipes runs what etcd's own Go client offers against a server: its calls, its recipes
// for locks, elections and queues, and the interface a Kubernetes API server uses.
//
// A check is right if it holds on etcd: every one is run there too.
package recipes

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// checkTime is how long one check may take.
const checkTime = 120 * time.Second

// check is one promise of the client that needs the server.
type check struct {
	name string
	run  func(t *trial) error
}

// trial is what a check works with: keys of its own and a client that ends with it.
type trial struct {
	ctx       context.Context
	client    *clientv3.Client
	endpoints []string
	prefix    string
}

// Groups names the groups of checks, each of them a suite.
func Groups() []string {
	return []string{"clientv3", "concurrency", "recipes", "kubernetes client"}
}

func checks(group string) []check {
	switch group {
	case "clientv3":
		return calls
	case "concurrency":
		return concurrent
	case "recipes":
		return queues
	default:
		return kubernetesClient
	}
}

// Run runs a group and returns how many checks there were and which failed.
func Run(group string, endpoints []string) (int, []string) {
	var failures []string
	all := checks(group)
	for i, check := range all {
		prefix := fmt.Sprintf("recipes/%s/%d/", group, i)
		if err := one(check, endpoints, prefix); err != nil {
			failures = append(failures, fmt.Sprintf("%s: %v", check.name, err))
		}
	}
	return len(all), failures
}

func configuration(endpoints []string) clientv3.Config {
	return clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
}

func one(check check, endpoints []string, prefix string) error {
	client, err := clientv3.New(configuration(endpoints))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- check.run(&trial{ctx, client, endpoints, prefix}) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// Some recipes take no context; closing the client ends them.
		return fmt.Errorf("not done after %v", checkTime)
	}
}

// second is another client of the same cluster, as another process would have one.
func (t *trial) second() (*clientv3.Client, error) {
	return clientv3.New(configuration(t.endpoints))
}

func (t *trial) put(key, value string, options ...clientv3.OpOption) error {
	_, err := t.client.Put(t.ctx, t.prefix+key, value, options...)
	return err
}

func (t *trial) get(key string) (string, error) {
	got, err := t.client.Get(t.ctx, t.prefix+key)
	if err != nil {
		return "", err
	}
	if len(got.Kvs) != 1 {
		return "", fmt.Errorf("%s: %d entries", key, len(got.Kvs))
	}
	return string(got.Kvs[0].Value), nil
}

func expect[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: %v, not %v", what, got, want)
	}
	return nil
}

// inOrder runs steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
