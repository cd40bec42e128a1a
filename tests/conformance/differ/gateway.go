package differ

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// NewGateway connects to both and asks them in JSON. An address is HOST:PORT of a client port and
// of the port that serves JSON, which may be the same.
func NewGateway(left, right [2]string) (*Differ, error) {
	d, err := New(left[0], right[0])
	if err != nil {
		return nil, err
	}
	d.sides[0].pages, d.sides[1].pages = "http://"+left[1], "http://"+right[1]
	return d, nil
}

// Calls runs the calls of a script that was written for gRPC. Its streams are left out, and what
// has no path.
func (d *Differ) Calls(file string) (Outcome, error) {
	return d.file(file, func(step *Step) bool {
		if step.Call == "" || step.Open != "" {
			return step.Wait > 0 || step.Script != ""
		}
		m, err := method(step.Call)
		return err == nil && page(m) != ""
	})
}

// NeedsFreshStore tells whether a script means nothing on a store that has been written to.
func NeedsFreshStore(file string) (bool, error) {
	steps, err := read(file)
	return err == nil && steps[0].Absolute, err
}

// page is the path of a method of the gateway; empty where it has none.
func page(m protoreflect.MethodDescriptor) string {
	rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	return rule.GetPost()
}

// spoken is what was said in JSON.
type spoken struct {
	status int
	values []any
}

// ask posts a request and reads what comes back, a stream's lines merged.
func (s *side) ask(
	ctx context.Context, m protoreflect.MethodDescriptor, step *Step, request, got proto.Message,
) (answer, error) {
	response, err := s.post(ctx, m, step, request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	said := &spoken{status: response.StatusCode}
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			if refused, err := said.line(m, line, got); err != nil || refused != nil {
				return answer{spoken: said}.or(refused), err
			}
		}
		if err == io.EOF {
			return answer{messages: []proto.Message{got}, spoken: said}, nil
		}
		if err != nil {
			return answer{}, err
		}
	}
}

func (s *side) post(
	ctx context.Context, m protoreflect.MethodDescriptor, step *Step, request proto.Message,
) (*http.Response, error) {
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(request)
	if err != nil {
		return nil, err
	}
	post, err := http.NewRequestWithContext(
		ctx, http.MethodPost, s.pages+page(m), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range step.Metadata {
		if name = "Grpc-Metadata-" + name; name == "Grpc-Metadata-token" {
			name = "Authorization"
		}
		post.Header.Set(name, s.value(value))
	}
	return http.DefaultClient.Do(post)
}

// line reads one line of an answer: a message, which is merged into `got`, or a refusal.
func (s *spoken) line(
	m protoreflect.MethodDescriptor, line []byte, got proto.Message,
) (*status.Status, error) {
	var value map[string]any
	if err := json.Unmarshal(line, &value); err != nil {
		return nil, fmt.Errorf("%q is no JSON: %w", cut(string(line)), err)
	}
	refusal := value
	if m.IsStreamingServer() {
		refusal, _ = value["error"].(map[string]any)
		if result, isResult := value["result"].(map[string]any); isResult {
			value = result
		}
	}
	s.values = append(s.values, value)
	if s.status != http.StatusOK || m.IsStreamingServer() && refusal != nil {
		number, _ := refusal["code"].(float64)
		text, _ := refusal["message"].(string)
		return status.New(codes.Code(number), text), nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	part := got.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(text, part); err != nil {
		return nil, fmt.Errorf("%s: %w", cut(string(text)), err)
	}
	proto.Merge(got, part)
	return nil, nil
}

// or is the answer with a refusal, if there is one.
func (a answer) or(refused *status.Status) answer {
	if refused != nil {
		a.code, a.text = refused.Code(), refused.Message()
	}
	return a
}

// follow posts the one request of a stream and hands on its lines as they come.
func (s *side) follow(
	ctx context.Context, m protoreflect.MethodDescriptor, step *Step, request proto.Message,
	open *openStream,
) error {
	response, err := s.post(ctx, m, step, request)
	if err != nil {
		return err
	}
	go func() {
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		for {
			line, err := lines.ReadBytes('\n')
			if len(bytes.TrimSpace(line)) == 0 {
				if err == nil {
					continue
				}
				open.arrived <- arrival{end: err}
				return
			}
			message, err := newMessage(m.Output())
			said := &spoken{status: response.StatusCode}
			if err == nil {
				var refused *status.Status
				if refused, err = said.line(m, line, message); refused != nil {
					err = refused.Err()
				}
			}
			open.arrived <- arrival{message: message, end: err}
			if err != nil {
				return
			}
		}
	}()
	return nil
}

// shapes lists where two answers in JSON differ in what is left out and in how values are written;
// the values themselves are compared as messages.
func shapes(of protoreflect.MessageDescriptor, left, right *spoken) []string {
	var found []string
	if left.status != right.status {
		found = append(found, fmt.Sprintf("status %d | %d", left.status, right.status))
	}
	if len(left.values) == 0 || len(right.values) == 0 {
		return found
	}
	if left.status != http.StatusOK {
		of = nil
	}
	// Where a stream is cut is up to the server: its first line stands for all.
	shape("json", of, left.values[0], right.values[0], &found)
	return found
}

func shape(
	at string, of protoreflect.MessageDescriptor, left, right any, found *[]string,
) {
	l, isObject := left.(map[string]any)
	r, isOther := right.(map[string]any)
	if !isObject || !isOther {
		if kind(left) != kind(right) {
			*found = append(*found, fmt.Sprintf("%s: %s | %s", at, kind(left), kind(right)))
		}
		return
	}
	names := map[string]bool{}
	for _, values := range []map[string]any{l, r} {
		for name := range values {
			names[name] = true
		}
	}
	for name := range names {
		var inner protoreflect.MessageDescriptor
		if of != nil {
			if field := of.Fields().ByName(protoreflect.Name(name)); field != nil {
				if masks[field.FullName()] == freely {
					continue
				}
				inner = field.Message()
			}
		}
		where := at + "." + name
		lists, isList := l[name].([]any)
		others, isOtherList := r[name].([]any)
		if !isList || !isOtherList {
			shape(where, inner, l[name], r[name], found)
			continue
		}
		for i := range min(len(lists), len(others)) {
			shape(fmt.Sprintf("%s.%d", where, i), inner, lists[i], others[i], found)
		}
	}
}

func kind(value any) string {
	if value == nil {
		return "left out"
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", value), "interface ")
}
