// Package differ asks two servers the same and compares what they answer, field by field.
//
// A script is a file of JSON, one step a line:
//
//	{"script": "what it shows", "absolute": true}             the first line; absolute: below
//	{"call": "KV/Put", "request": {…}, "save": {"id": "ID"}}  a call, its chunks merged
//	{"open": "w", "call": "Watch/Watch"}                      opens a stream under a name
//	{"send": "w", "request": {…}}                             sends on it
//	{"receive": "w", "count": 2}                              so many messages, one by one
//	{"events": "w", "count": 9}                               so many events, however their revisions
//	                                                          are packed, each of them whole
//	{"silent": "w", "ms": 300}                                nothing may arrive
//	{"close": "w"}                                            ends the sending side
//	{"wait_ms": 100}                                          for what takes time by its nature
//
// Numbers may be written "$name+1" over what was saved before; "$rev" is the newest revision any
// header has named. "save_text" keeps text, for metadata ("$name"). Revisions are compared as
// distances from the first, so that a difference in one script does not show up in all later
// ones; a script that says "absolute" compares them as such.
package differ

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// scriptLineBytesMax bounds one line of a script.
const scriptLineBytesMax = 1 << 20

// Step is one line of a script.
type Step struct {
	Script       string            `json:"script,omitempty"`
	Absolute     bool              `json:"absolute,omitempty"`
	Call         string            `json:"call,omitempty"`
	Open         string            `json:"open,omitempty"`
	Send         string            `json:"send,omitempty"`
	Receive      string            `json:"receive,omitempty"`
	Events       string            `json:"events,omitempty"`
	Silent       string            `json:"silent,omitempty"`
	Close        string            `json:"close,omitempty"`
	Count        int               `json:"count,omitempty"`
	Milliseconds int               `json:"ms,omitempty"`
	Wait         int               `json:"wait_ms,omitempty"`
	Request      map[string]any    `json:"request,omitempty"`
	Save         map[string]string `json:"save,omitempty"`
	SaveText     map[string]string `json:"save_text,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
}

// Outcome of a script: how many steps were compared and what differed.
type Outcome struct {
	Name        string
	Steps       int
	Differences []string
}

// Differ holds both servers.
type Differ struct {
	sides [2]*side
}

// New connects to both.
func New(left, right string) (*Differ, error) {
	d := &Differ{}
	for i, address := range []string{left, right} {
		var err error
		if d.sides[i], err = dial(address); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Close ends both connections.
func (d *Differ) Close() {
	for _, side := range d.sides {
		_ = side.connection.Close()
	}
}

// Scripts lists the scripts of a folder in the order of their names.
func Scripts(folder string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(folder, "*.jsonl"))
	sort.Strings(found)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no scripts in %s", folder)
	}
	return found, err
}

// File runs a script.
func (d *Differ) File(file string) (Outcome, error) {
	return d.file(file, func(*Step) bool { return true })
}

// file runs those steps of a script that are wanted.
func (d *Differ) file(file string, wanted func(*Step) bool) (Outcome, error) {
	name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
	steps, err := read(file)
	if err != nil {
		return Outcome{Name: name}, fmt.Errorf("%s: %w", file, err)
	}
	absolute := steps[0].Absolute
	next := func() *Step {
		for len(steps) > 0 {
			step := steps[0]
			steps = steps[1:]
			if wanted(step) {
				return step
			}
		}
		return nil
	}
	return d.run(name, absolute, true, next)
}

// run asks both sides every step. Where a script goes on after a difference, a generated one stops:
// whatever comes later would only show the first difference again.
func (d *Differ) run(name string, absolute, goOn bool, next func() *Step) (Outcome, error) {
	outcome := Outcome{Name: name}
	p := &pair{}
	for i, side := range d.sides {
		var err error
		if p.base[i], err = side.begin(absolute); err != nil {
			return outcome, err
		}
		defer side.end()
		p.vars[i] = side.vars
	}
	for step := next(); step != nil; step = next() {
		time.Sleep(time.Duration(step.Wait) * time.Millisecond)
		if step.Script != "" || step.Wait > 0 {
			continue
		}
		left, right, err := d.both(step)
		if err != nil {
			return outcome, fmt.Errorf("%s: %s: %w", name, step.shown(), err)
		}
		outcome.Steps++
		if !goOn && isStricter(step, left, right) {
			break
		}
		if found := p.answers(left, right); len(found) > 0 {
			shown := fmt.Sprintf("step %d %s", outcome.Steps, step.shown())
			outcome.Differences = append(outcome.Differences,
				shown+"\n      "+strings.Join(found, "\n      "))
			if !goOn {
				break
			}
		}
	}
	return outcome, nil
}

func (d *Differ) both(step *Step) (answer, answer, error) {
	var answers [2]answer
	var errs [2]error
	var both sync.WaitGroup
	for i, side := range d.sides {
		both.Go(func() { answers[i], errs[i] = side.run(step) })
	}
	both.Wait()
	for i, err := range errs {
		if err != nil {
			return answers[0], answers[1], fmt.Errorf("server %d: %w", i+1, err)
		}
	}
	return answers[0], answers[1], nil
}

func (p *pair) answers(left, right answer) []string {
	if left.text == silentText && right.text == silentText {
		return []string{"what the script waits for comes from neither"}
	}
	if left.code != right.code || left.text != right.text {
		return []string{left.shown() + " | " + right.shown()}
	}
	if left.split != right.split {
		return []string{"revisions cut without a word of it: " + left.split + " | " + right.split}
	}
	if len(left.messages) != len(right.messages) {
		return []string{fmt.Sprintf("%d messages: %s | %d messages: %s",
			len(left.messages), left.shown(), len(right.messages), right.shown())}
	}
	var found []string
	for i := range left.messages {
		found = append(found, p.compare(left.messages[i], right.messages[i])...)
	}
	if left.spoken != nil && right.spoken != nil {
		var of protoreflect.MessageDescriptor
		if len(left.messages) > 0 {
			of = left.messages[0].ProtoReflect().Descriptor()
		}
		found = append(found, shapes(of, left.spoken, right.spoken)...)
	}
	return found
}

func (a answer) shown() string {
	if a.text != "" || a.code != 0 {
		return fmt.Sprintf("%s %q", a.code, a.text)
	}
	var all []string
	for _, message := range a.messages {
		all = append(all, asJSON(message))
	}
	return cut(strings.Join(all, " "))
}

func (s *Step) shown() string {
	text, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return cut(string(text))
}

func read(file string) ([]*Step, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var steps []*Step
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, scriptLineBytesMax)
	for number := 1; lines.Scan(); number++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		step := &Step{}
		if err := decoder.Decode(step); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		steps = append(steps, step)
	}
	if len(steps) == 0 || steps[0].Script == "" {
		return nil, fmt.Errorf("the first line must say what the script shows")
	}
	return steps, lines.Err()
}
