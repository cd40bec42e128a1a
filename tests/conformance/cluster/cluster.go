// Package cluster starts and stops the servers that are compared, and says what they use.
package cluster

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// readyWithin is how long a cluster may take until it answers.
	readyWithin = 60 * time.Second
	// stopWithin is how long a process may take to end before it is killed.
	stopWithin = 15 * time.Second
)

// Cluster is a set of running server processes.
type Cluster struct {
	// Name says whose servers these are.
	Name string
	// Endpoints are the client addresses, HOST:PORT.
	Endpoints []string
	// Pages are the addresses that serve HTTP, one for each endpoint.
	Pages []string
	pids  []int
	stop  func() error
}

// Stop ends the processes and removes what they stored.
func (c *Cluster) Stop() error { return c.stop() }

// Etcd starts members on 127.0.0.1: member i serves clients on clientBase+i and peers on
// clientBase+10+i, beginning with 1.
func Etcd(binary, folder string, members, clientBase int) (*Cluster, error) {
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	url := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
	var all []string
	for i := 1; i <= members; i++ {
		all = append(all, fmt.Sprintf("e%d=%s", i, url(clientBase+10+i)))
	}
	c := &Cluster{Name: "etcd"}
	var running []*exec.Cmd
	c.stop = func() error {
		for _, process := range running {
			end(process)
		}
		return os.RemoveAll(folder)
	}
	for i := 1; i <= members; i++ {
		name := fmt.Sprintf("e%d", i)
		log, err := os.Create(filepath.Join(folder, name+".log"))
		if err != nil {
			return nil, err
		}
		client, peer := url(clientBase+i), url(clientBase+10+i)
		process := exec.Command(binary, "--name", name, "--log-level", "warn",
			"--data-dir", filepath.Join(folder, name),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", "new")
		process.Stdout, process.Stderr = log, log
		err = process.Start()
		_ = log.Close()
		if err != nil {
			_ = c.stop()
			return nil, err
		}
		running = append(running, process)
		c.pids = append(c.pids, process.Process.Pid)
		c.Endpoints = append(c.Endpoints, fmt.Sprintf("127.0.0.1:%d", clientBase+i))
	}
	c.Pages = c.Endpoints
	for _, endpoint := range c.Endpoints {
		if err := healthy("http://" + endpoint + "/health"); err != nil {
			_ = c.stop()
			return nil, fmt.Errorf("etcd on %s: %w", endpoint, err)
		}
	}
	return c, nil
}

func end(process *exec.Cmd) {
	ended := make(chan struct{})
	go func() {
		_ = process.Wait()
		close(ended)
	}()
	_ = process.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(stopWithin):
		_ = process.Process.Kill()
		<-ended
	}
}

func healthy(url string) error {
	client := http.Client{Timeout: time.Second}
	var last error
	for begun := time.Now(); time.Since(begun) < readyWithin; time.Sleep(50 * time.Millisecond) {
		answer, err := client.Get(url)
		if err != nil {
			last = err
			continue
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("%s", answer.Status)
	}
	return last
}

// local calls the verb of the command that starts and stops nodes below a folder.
type local struct {
	binary, folder string
	portBase       int
}

func (l local) call(verb string, more ...string) ([]byte, error) {
	arguments := append([]string{"local", verb, "--dir", l.folder,
		"--port-base", strconv.Itoa(l.portBase)}, more...)
	command := exec.Command(l.binary, arguments...)
	var complaint bytes.Buffer
	command.Stderr = &complaint
	said, err := command.Output()
	if err != nil {
		err = fmt.Errorf("holdfast local %s: %w: %s", verb, err, complaint.Bytes())
	}
	return said, err
}

// Wipe ends the nodes that an interrupted run has left in a folder, and removes it.
func Wipe(binary, folder string, portBase int) error {
	if _, err := os.Stat(folder); err != nil {
		return nil
	}
	_, err := local{binary, folder, portBase}.call("wipe")
	return err
}

// Holdfast starts nodes as `make cluster` does, in another folder and on other ports: node i serves
// clients on portBase+i and HTTP on portBase+20+i.
func Holdfast(binary, folder string, nodes, portBase int) (*Cluster, error) {
	if err := Wipe(binary, folder, portBase); err != nil {
		return nil, err
	}
	local := local{binary, folder, portBase}.call
	c := &Cluster{Name: "Holdfast"}
	c.stop = func() error {
		_, err := local("wipe")
		return err
	}
	if _, err := local("start", "--nodes", strconv.Itoa(nodes)); err != nil {
		_ = c.stop()
		return nil, err
	}
	said, err := local("pids")
	if err != nil {
		_ = c.stop()
		return nil, err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(said)), "\n") {
		var node, pid int
		if _, err := fmt.Sscan(line, &node, &pid); err != nil {
			_ = c.stop()
			return nil, fmt.Errorf("holdfast local pids said %q", line)
		}
		c.pids = append(c.pids, pid)
		c.Endpoints = append(c.Endpoints, fmt.Sprintf("127.0.0.1:%d", portBase+node))
		c.Pages = append(c.Pages, fmt.Sprintf("127.0.0.1:%d", portBase+20+node))
	}
	return c, nil
}

// PIDs are the processes of the servers.
func (c *Cluster) PIDs() []string {
	var all []string
	for _, pid := range c.pids {
		all = append(all, strconv.Itoa(pid))
	}
	return all
}
