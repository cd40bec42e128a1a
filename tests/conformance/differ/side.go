package differ

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	// Scripts name the messages of these services.
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	_ "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

const (
	// callTime is how long one step may take.
	callTime = 15 * time.Second
	// messageBytesMax is the largest message a side may send.
	messageBytesMax = 64 << 20
	// unreadMax is how many messages of a stream may wait to be looked at.
	unreadMax = 10_000
)

// side is one of the two servers, as far as a script has got with it.
type side struct {
	connection *grpc.ClientConn
	// pages is where it is asked in JSON; empty: it is asked over gRPC.
	pages   string
	vars    map[string]int64
	texts   map[string]string
	streams map[string]*openStream
}

// openStream is a stream a script works on; what arrives is read at once.
type openStream struct {
	stream  grpc.ClientStream
	cancel  context.CancelFunc
	call    string
	arrived chan arrival
	// post begins it with its one request, where it is asked in JSON.
	post func(proto.Message) error
}

type arrival struct {
	message proto.Message
	end     error
}

// answer is what one step brought from one side.
type answer struct {
	messages []proto.Message
	code     codes.Code
	text     string
	// split names the revisions that came in several messages which did not say so.
	split string
	// spoken is the answer as it came in JSON, if it did.
	spoken *spoken
}

func failed(err error) answer {
	known := status.Convert(err)
	return answer{code: known.Code(), text: known.Message()}
}

func dial(address string) (*side, error) {
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)),
	)
	return &side{connection: connection}, err
}

// begin forgets the last script, with the keys it has left, and notes the revision at which the next
// one starts.
func (s *side) begin(absolute bool) (int64, error) {
	s.vars, s.texts = map[string]int64{}, map[string]string{}
	s.streams = map[string]*openStream{}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	// Nothing to delete is no revision: a store that was fresh stays so.
	now, err := pb.NewKVClient(s.connection).DeleteRange(
		ctx, &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		return 0, err
	}
	s.vars["rev"], s.vars["begin"] = now.Header.Revision, now.Header.Revision
	if absolute {
		return 0, nil
	}
	return now.Header.Revision, nil
}

func (s *side) end() {
	for _, open := range s.streams {
		open.cancel()
	}
}

// run carries out a step. An error is one of the script, not of the server.
func (s *side) run(step *Step) (answer, error) {
	switch {
	case step.Open != "":
		return answer{}, s.open(step)
	case step.Call != "":
		return s.call(step)
	}
	name := step.Send + step.Receive + step.Events + step.Silent + step.Close
	open := s.streams[name]
	if open == nil {
		return answer{}, fmt.Errorf("no stream %q is open", name)
	}
	switch {
	case step.Send != "":
		return answer{}, s.send(open, step)
	case step.Receive != "":
		return open.receive(max(step.Count, 1)), nil
	case step.Events != "":
		return open.events(step.Count), nil
	case step.Silent != "":
		return open.silence(time.Duration(step.Milliseconds) * time.Millisecond), nil
	case open.post != nil:
		open.cancel()
		return answer{}, nil
	default:
		return answer{}, open.stream.CloseSend()
	}
}

func (s *side) context(step *Step) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	if step.Open == "" {
		ctx, cancel = context.WithTimeout(context.Background(), callTime)
	}
	for name, value := range step.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, name, s.value(value))
	}
	return ctx, cancel
}

// value is a piece of metadata: itself, or what was saved under "$name".
func (s *side) value(text string) string {
	if saved, isSaved := strings.CutPrefix(text, "$"); isSaved {
		return s.texts[saved]
	}
	return text
}

func (s *side) call(step *Step) (answer, error) {
	m, err := method(step.Call)
	if err != nil {
		return answer{}, err
	}
	request, err := newMessage(m.Input())
	if err != nil {
		return answer{}, err
	}
	if err := fill(request.ProtoReflect(), step.Request, s.vars); err != nil {
		return answer{}, err
	}
	got, err := newMessage(m.Output())
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := s.context(step)
	defer cancel()
	answered := answer{messages: []proto.Message{got}}
	switch {
	case s.pages != "":
		answered, err = s.ask(ctx, m, step, request, got)
		if err != nil || answered.code != codes.OK {
			return answered, err
		}
	case m.IsStreamingServer():
		err = s.gather(ctx, path(m), request, got)
	default:
		err = s.connection.Invoke(ctx, path(m), request, got)
	}
	if err != nil {
		return failed(err), nil
	}
	s.noteRevision(got)
	for name, field := range step.SaveText {
		from := got.ProtoReflect()
		s.texts[name] = from.Get(from.Descriptor().Fields().ByName(protoreflect.Name(field))).String()
	}
	for name, where := range step.Save {
		if s.vars[name], err = pick(got.ProtoReflect(), where); err != nil {
			return answer{}, fmt.Errorf("%w, in %s", err, asJSON(got))
		}
	}
	return answered, nil
}

// gather merges the chunks of an answer that comes as a stream: where to cut is up to the server.
func (s *side) gather(ctx context.Context, path string, request, into proto.Message) error {
	stream, err := s.connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		chunk := into.ProtoReflect().New().Interface()
		if err := stream.RecvMsg(chunk); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		proto.Merge(into, chunk)
	}
}

func (s *side) noteRevision(got proto.Message) {
	if revision, err := pick(got.ProtoReflect(), "header.revision"); err == nil && revision > 0 {
		s.vars["rev"] = revision
	}
}

func (s *side) open(step *Step) error {
	m, err := method(step.Call)
	if err != nil {
		return err
	}
	ctx, cancel := s.context(step)
	open := &openStream{call: step.Call, cancel: cancel, arrived: make(chan arrival, unreadMax)}
	s.streams[step.Open] = open
	if s.pages != "" {
		// It begins with its one request.
		open.post = func(request proto.Message) error { return s.follow(ctx, m, step, request, open) }
		return nil
	}
	stream, err := s.connection.NewStream(ctx,
		&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path(m))
	if err != nil {
		cancel()
		return err
	}
	open.stream = stream
	go func() {
		for {
			message, err := newMessage(m.Output())
			if err == nil {
				err = stream.RecvMsg(message)
			}
			if err != nil {
				open.arrived <- arrival{end: err}
				return
			}
			open.arrived <- arrival{message: message}
		}
	}()
	return nil
}

func (s *side) send(open *openStream, step *Step) error {
	m, err := method(open.call)
	if err != nil {
		return err
	}
	request, err := newMessage(m.Input())
	if err != nil {
		return err
	}
	if err := fill(request.ProtoReflect(), step.Request, s.vars); err != nil {
		return err
	}
	if open.post != nil {
		return open.post(request)
	}
	// That the server has ended the stream is seen where the script receives.
	if err := open.stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

const silentText = "nothing arrived in time"

var errSilent = status.Error(codes.DeadlineExceeded, silentText)

func (o *openStream) next(within time.Duration) (proto.Message, error) {
	select {
	case arrived := <-o.arrived:
		return arrived.message, arrived.end
	case <-time.After(within):
		return nil, errSilent
	}
}

func (o *openStream) receive(count int) answer {
	var got answer
	for range count {
		message, err := o.next(callTime)
		if err != nil {
			ended := ending(err)
			ended.messages = got.messages
			return ended
		}
		got.messages = append(got.messages, message)
	}
	return got
}

// events waits for so many events, and says of each watch which it had in which order; how they
// are put together into messages is up to the server.
func (o *openStream) events(count int) answer {
	byWatch, whole := map[int64]*pb.WatchResponse{}, map[int64]bool{}
	var got answer
	for had := 0; had < count; {
		message, err := o.next(callTime)
		if err != nil {
			ended := ending(err)
			got.code, got.text = ended.code, ended.text
			break
		}
		response, isWatch := message.(*pb.WatchResponse)
		if !isWatch || len(response.Events) == 0 {
			got.messages = append(got.messages, message)
			continue
		}
		of := byWatch[response.WatchId]
		if of == nil {
			of = &pb.WatchResponse{WatchId: response.WatchId}
			byWatch[response.WatchId] = of
		}
		if last := len(of.Events) - 1; last >= 0 && whole[response.WatchId] {
			before, next := of.Events[last].Kv.ModRevision, response.Events[0].Kv.ModRevision
			if before == next {
				got.split += fmt.Sprintf("watch %d, key %q; ", response.WatchId, response.Events[0].Kv.Key)
			}
		}
		whole[response.WatchId] = !response.Fragment
		of.Events = append(of.Events, response.Events...)
		had += len(response.Events)
	}
	var ids []int64
	for id := range byWatch {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(a, b int) bool { return ids[a] < ids[b] })
	for _, id := range ids {
		got.messages = append(got.messages, byWatch[id])
	}
	return got
}

func (o *openStream) silence(during time.Duration) answer {
	message, err := o.next(during)
	switch {
	case err == errSilent:
		return answer{}
	case err != nil:
		return ending(err)
	}
	return answer{messages: []proto.Message{message}}
}

func ending(err error) answer {
	if errors.Is(err, io.EOF) {
		return answer{text: "the stream ended"}
	}
	return failed(err)
}
