// Package ctl runs one session of etcdctl against two servers and compares what it prints.
//
// A session is a file of JSON, one command a line: {"args": [...], "stdin": "…",
// "until_lines": n, "kill_after_ms": n, "code_only": true}. What goes on until it is ended is ended
// when so many lines have come, or after a time where nothing shows that it is at work. "$REV" in
// an argument is the store's revision at that moment, "$REV-2" one before it; "$DIR" is a folder,
// "$ENDPOINT" the server, "$MEMBERS" all of its cluster. "not_old" says why etcdctl 3.4 is not asked
// that. What commands print is compared after the masks below; of standard error only the lines that
// begin with "Error:".
package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// commandTime is how long a command may take.
	commandTime = 30 * time.Second
	// surplusTime is how long a command that has printed what is expected may print more.
	surplusTime = 300 * time.Millisecond
	// late is said of a command that has not ended in time; that both are late is not equal.
	late = "Error: not done in time"
)

// command is one line of a session.
type command struct {
	Note      string   `json:"note,omitempty"`
	Args      []string `json:"args,omitempty"`
	Stdin     string   `json:"stdin,omitempty"`
	Lines     int      `json:"until_lines,omitempty"`
	KillAfter int      `json:"kill_after_ms,omitempty"`
	CodeOnly  bool     `json:"code_only,omitempty"`
	NotOld    string   `json:"not_old,omitempty"`
}

// masks takes out of the output what differs between two servers that behave alike.
var masks = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`"(cluster_id|member_id|raft_term|revision|create_revision|mod_revision|` +
		`compact_revision|lease|ID)":-?\d+`), `"$1":N`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ENDPOINT"},
	{regexp.MustCompile(`\b[0-9a-f]{12,16}\b`), "HEX"},
	{regexp.MustCompile(`took( =)? [0-9.µmns]+`), "took TIME"},
	{regexp.MustCompile(`remaining\(\d+s\)`), "remaining(S)"},
	{regexp.MustCompile(`revision \d+`), "revision N"},
	// Keys written out in base64 hold ids of leases.
	{regexp.MustCompile(`"key":"[A-Za-z0-9+/=]{40,}"`), `"key":"KEY"`},
}

// Server is one side: its cluster, of which the first is asked, and a folder for what commands write.
type Server struct {
	Endpoints []string
	Folder    string
}

// Etcdctl is a command of some version.
type Etcdctl struct {
	Binary string
	// IsOld: of version 3.4.
	IsOld bool
}

// Session runs a file of commands against both servers. It returns how many were compared and what
// differed.
func Session(etcdctl Etcdctl, file string, left, right Server) (int, []string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, nil, err
	}
	var differences []string
	compared := 0
	for number, line := range strings.Split(string(content), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var c command
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			return compared, differences, fmt.Errorf("%s:%d: %w", file, number+1, err)
		}
		if c.Note != "" || etcdctl.IsOld && c.NotOld != "" {
			continue
		}
		said := [2]string{}
		var both sync.WaitGroup
		for i, server := range []Server{left, right} {
			both.Go(func() { said[i] = server.run(etcdctl.Binary, &c) })
		}
		both.Wait()
		compared++
		if said[0] != said[1] || strings.Contains(said[0], late) {
			differences = append(differences, fmt.Sprintf("etcdctl %s\n      left:  %s\n      right: %s",
				strings.Join(c.Args, " "), shown(said[0]), shown(said[1])))
		}
	}
	return compared, differences, nil
}

func shown(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n             ")
}

// run returns what a command printed and its exit code, masked.
func (s Server) run(binary string, c *command) string {
	var arguments []string
	for _, argument := range c.Args {
		argument = strings.ReplaceAll(argument, "$DIR", s.Folder)
		argument = strings.ReplaceAll(argument, "$ENDPOINT", s.Endpoints[0])
		argument = strings.ReplaceAll(argument, "$MEMBERS", strings.Join(s.Endpoints, ","))
		if strings.Contains(argument, "$REV") {
			revision, err := s.revision(binary)
			if err != nil {
				return "no revision: " + err.Error()
			}
			argument = replaceRevision(argument, revision)
		}
		arguments = append(arguments, argument)
	}
	out, complaint, code := s.execute(binary, arguments, c)
	if c.CodeOnly {
		return fmt.Sprintf("exit code %d", code)
	}
	text := out
	for _, line := range strings.Split(complaint, "\n") {
		if strings.HasPrefix(line, "Error:") {
			text += line + "\n"
		}
	}
	text = strings.ReplaceAll(text, s.Folder, "DIR")
	for _, mask := range masks {
		text = mask.pattern.ReplaceAllString(text, mask.by)
	}
	return text + fmt.Sprintf("exit code %d", code)
}

var revisionPattern = regexp.MustCompile(`\$REV([+-]\d+)?`)

func replaceRevision(argument string, revision int64) string {
	return revisionPattern.ReplaceAllStringFunc(argument, func(found string) string {
		add, err := strconv.ParseInt(strings.TrimPrefix(found, "$REV"), 10, 64)
		if err != nil {
			add = 0
		}
		return strconv.FormatInt(revision+add, 10)
	})
}

func (s Server) revision(binary string) (int64, error) {
	out, complaint, code := s.execute(binary, []string{"get", "none", "-w", "json"}, &command{})
	if code != 0 {
		return 0, errors.New(complaint)
	}
	var answer struct{ Header struct{ Revision int64 } }
	err := json.Unmarshal([]byte(out), &answer)
	return answer.Header.Revision, err
}

func (s Server) execute(binary string, arguments []string, c *command) (string, string, int) {
	within := commandTime
	if c.KillAfter > 0 {
		within = time.Duration(c.KillAfter) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	arguments = append([]string{"--endpoints", s.Endpoints[0]}, arguments...)
	process := exec.CommandContext(ctx, binary, arguments...)
	process.Env = append(os.Environ(), "ETCDCTL_API=3")
	// What a command has started must not keep it from ending.
	process.WaitDelay = time.Second
	process.Stdin = strings.NewReader(c.Stdin)
	var complaint bytes.Buffer
	out := &output{lines: c.Lines, enough: func() { time.AfterFunc(surplusTime, cancel) }}
	process.Stdout, process.Stderr = out, &complaint
	err := process.Run()
	code := 0
	switch {
	case errors.Is(ctx.Err(), context.Canceled), ctx.Err() != nil && c.KillAfter > 0:
		// It went on until it was ended.
	case ctx.Err() != nil:
		complaint.WriteString("\n" + late + "\n")
		code = -1
	case err != nil:
		code = max(process.ProcessState.ExitCode(), 1)
	}
	return string(out.text), complaint.String(), code
}

// output is what a command prints; it says when enough lines have come.
type output struct {
	text   []byte
	lines  int
	enough func()
}

func (o *output) Write(text []byte) (int, error) {
	before := bytes.Count(o.text, []byte("\n"))
	o.text = append(o.text, text...)
	if after := bytes.Count(o.text, []byte("\n")); before < o.lines && after >= o.lines {
		o.enough()
	}
	return len(text), nil
}
