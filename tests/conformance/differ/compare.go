package differ

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// treatment says how a field is compared whose value may differ between two equal servers.
type treatment int

const (
	// exactly: the values are equal (every field that is not listed).
	exactly treatment = iota
	// presence: both are set or both are not.
	presence
	// freely: not compared.
	freely
	// revision: equal as a distance from the revision at which the script began, or before it.
	revision
	// seconds: equal but for one, since the two were asked at slightly different times.
	seconds
	// unordered: a list that is equal as a set.
	unordered
)

// masks is everything in which two servers that behave alike may differ, and why.
var masks = map[protoreflect.FullName]treatment{
	// Who answered: another cluster, another member, another election.
	"etcdserverpb.ResponseHeader.cluster_id": presence,
	"etcdserverpb.ResponseHeader.member_id":  presence,
	"etcdserverpb.ResponseHeader.raft_term":  presence,
	"etcdserverpb.Member.ID":                 presence,
	"etcdserverpb.Member.name":               presence,
	"etcdserverpb.Member.peerURLs":           freely,
	"etcdserverpb.Member.clientURLs":         freely,
	"etcdserverpb.AlarmMember.memberID":      presence,
	"etcdserverpb.StatusResponse.leader":     presence,
	// A node of Holdfast is one of three, the other server stands alone.
	"etcdserverpb.MemberListResponse.members": freely,
	// Sizes, log positions and versions of what is inside.
	"etcdserverpb.StatusResponse.version":           presence,
	"etcdserverpb.StatusResponse.storageVersion":    freely,
	"etcdserverpb.StatusResponse.dbSize":            presence,
	"etcdserverpb.StatusResponse.dbSizeInUse":       freely,
	"etcdserverpb.StatusResponse.dbSizeQuota":       freely,
	"etcdserverpb.StatusResponse.raftIndex":         presence,
	"etcdserverpb.StatusResponse.raftAppliedIndex":  presence,
	"etcdserverpb.StatusResponse.raftTerm":          presence,
	"etcdserverpb.StatusResponse.downgradeInfo":     freely,
	"etcdserverpb.HashResponse.hash":                presence,
	"etcdserverpb.HashKVResponse.hash":              presence,
	"etcdserverpb.SnapshotResponse.blob":            freely,
	"etcdserverpb.SnapshotResponse.remaining_bytes": freely,
	"etcdserverpb.SnapshotResponse.version":         freely,
	"etcdserverpb.AuthenticateResponse.token":       presence,
	// Revisions count from where the script began.
	"etcdserverpb.ResponseHeader.revision":        revision,
	"mvccpb.KeyValue.create_revision":             revision,
	"mvccpb.KeyValue.mod_revision":                revision,
	"etcdserverpb.WatchResponse.compact_revision": revision,
	"etcdserverpb.HashKVResponse.hash_revision":   revision,
	// Asked for exactly the revision it was compacted to, etcd tells what it noted then, with the
	// compaction before, until it restarts: scripts ask for others.
	"etcdserverpb.HashKVResponse.compact_revision": revision,
	"v3electionpb.LeaderKey.rev":                   revision,
	// etcd lists them as its map has them.
	"etcdserverpb.LeaseTimeToLiveResponse.keys": unordered,
	// Time goes by between two questions.
	"etcdserverpb.LeaseTimeToLiveResponse.TTL": seconds,
}

// pair is what both sides know of a script: where it began and what they saved under which name.
type pair struct {
	base [2]int64
	vars [2]map[string]int64
}

// compare lists the fields in which two answers differ, as "path: left | right".
func (p *pair) compare(left, right proto.Message) []string {
	var found []string
	p.messages("", left.ProtoReflect(), right.ProtoReflect(), &found)
	return found
}

func (p *pair) messages(at string, left, right protoreflect.Message, found *[]string) {
	fields := left.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		how := masks[field.FullName()]
		where := strings.TrimPrefix(at+"."+string(field.Name()), ".")
		if how == freely {
			continue
		}
		if field.IsMap() {
			*found = append(*found, where+": maps are not compared")
			continue
		}
		l, r := left.Get(field), right.Get(field)
		switch {
		case field.IsList():
			p.lists(where, field, how, l.List(), r.List(), found)
		case field.HasPresence() && left.Has(field) != right.Has(field):
			*found = append(*found, fmt.Sprintf("%s: set %t | %t", where, left.Has(field), right.Has(field)))
		case field.Message() != nil:
			if left.Has(field) {
				p.messages(where, l.Message(), r.Message(), found)
			}
		default:
			p.scalars(where, how, l, r, found)
		}
	}
	if !bytes.Equal(left.GetUnknown(), right.GetUnknown()) {
		*found = append(*found, at+": fields that the protocol does not have")
	}
}

func (p *pair) lists(
	at string, field protoreflect.FieldDescriptor, how treatment,
	left, right protoreflect.List, found *[]string,
) {
	if left.Len() != right.Len() {
		*found = append(*found, fmt.Sprintf("%s: %d | %d elements", at, left.Len(), right.Len()))
		return
	}
	if how == unordered {
		if l, r := p.sorted(0, left), p.sorted(1, right); !slices.Equal(l, r) {
			*found = append(*found, fmt.Sprintf("%s: %q | %q", at, l, r))
		}
		return
	}
	for i := range left.Len() {
		where := at + "." + strconv.Itoa(i)
		if field.Message() != nil {
			p.messages(where, left.Get(i).Message(), right.Get(i).Message(), found)
		} else {
			p.scalars(where, how, left.Get(i), right.Get(i), found)
		}
	}
}

// sorted is a list of bytes in their order.
func (p *pair) sorted(side int, list protoreflect.List) []string {
	var all []string
	for i := range list.Len() {
		all = append(all, p.named(side, string(list.Get(i).Bytes())))
	}
	slices.Sort(all)
	return all
}

func (p *pair) scalars(at string, how treatment, left, right protoreflect.Value, found *[]string) {
	if !p.alike(how, left.Interface(), right.Interface()) {
		*found = append(*found, fmt.Sprintf("%s: %s | %s", at, shown(left), shown(right)))
	}
}

func (p *pair) alike(how treatment, left, right any) bool {
	if how == presence {
		return isZero(left) == isZero(right)
	}
	switch l := left.(type) {
	case []byte:
		r, _ := right.([]byte)
		return p.named(0, string(l)) == p.named(1, string(r))
	case string:
		r, _ := right.(string)
		return p.named(0, l) == p.named(1, r)
	case int64:
		r, _ := right.(int64)
		switch {
		case how == revision && l > 0 && r > 0:
			// What an earlier script wrote is compared there.
			return l-p.base[0] == r-p.base[1] || (l < p.base[0] && r < p.base[1])
		case how == seconds:
			return l-r <= 1 && r-l <= 1
		case l == r:
			return true
		}
		return p.sameVariable(l, r)
	}
	return left == right
}

// sameVariable tells whether both sides saved these numbers under one name: ids that servers draw.
func (p *pair) sameVariable(left, right int64) bool {
	for name, value := range p.vars[0] {
		if other, ok := p.vars[1][name]; ok && value == left && other == right {
			return true
		}
	}
	return false
}

// named puts names in place of the ids that a side drew, where they are written out in keys.
func (p *pair) named(side int, text string) string {
	for name, value := range p.vars[side] {
		if hex := strconv.FormatInt(value, 16); len(hex) >= 8 {
			text = strings.ReplaceAll(text, hex, "<"+name+">")
		}
	}
	return text
}

func isZero(value any) bool {
	switch value := value.(type) {
	case string:
		return value == ""
	case []byte:
		return len(value) == 0
	case bool:
		return !value
	case protoreflect.EnumNumber:
		return value == 0
	}
	return fmt.Sprint(value) == "0"
}

func shown(value protoreflect.Value) string {
	text := fmt.Sprintf("%q", value.Interface())
	if _, isBytes := value.Interface().([]byte); !isBytes {
		text = fmt.Sprint(value.Interface())
	}
	return cut(text)
}

func cut(text string) string {
	const most = 300
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

func asJSON(message proto.Message) string {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return err.Error()
	}
	return cut(string(text))
}
