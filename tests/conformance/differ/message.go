package differ

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// method looks a call up by "KV/Put", "v3lockpb.Lock/Lock" or the like.
func method(call string) (protoreflect.MethodDescriptor, error) {
	service, name, ok := strings.Cut(call, "/")
	if !ok {
		return nil, fmt.Errorf("%q is not SERVICE/METHOD", call)
	}
	if !strings.Contains(service, ".") {
		service = "etcdserverpb." + service
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", service, err)
	}
	descriptor, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a service", service)
	}
	if m := descriptor.Methods().ByName(protoreflect.Name(name)); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%s has no method %s", service, name)
}

func path(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func newMessage(descriptor protoreflect.MessageDescriptor) (proto.Message, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		return nil, err
	}
	return kind.New().Interface(), nil
}

// fill sets fields of a message from decoded JSON. Unlike protojson it takes bytes as text, or as
// {"text": "x", "times": 1000}, and numbers as expressions over what the side has saved.
func fill(message protoreflect.Message, from map[string]any, vars map[string]int64) error {
	for name, value := range from {
		field := message.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return fmt.Errorf("%s has no field %s", message.Descriptor().FullName(), name)
		}
		if field.IsList() {
			items, ok := value.([]any)
			if !ok {
				return fmt.Errorf("%s: not a list", name)
			}
			list := message.Mutable(field).List()
			for _, item := range items {
				if field.Message() != nil {
					if err := fillNested(list.AppendMutable().Message(), item, vars); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					continue
				}
				one, err := scalar(field, item, vars)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				list.Append(one)
			}
			continue
		}
		if field.Message() != nil {
			if err := fillNested(message.Mutable(field).Message(), value, vars); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		one, err := scalar(field, value, vars)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		message.Set(field, one)
	}
	return nil
}

func fillNested(message protoreflect.Message, value any, vars map[string]int64) error {
	nested, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("%v is not an object", value)
	}
	return fill(message, nested, vars)
}

func scalar(
	field protoreflect.FieldDescriptor, value any, vars map[string]int64,
) (protoreflect.Value, error) {
	var none protoreflect.Value
	switch field.Kind() {
	case protoreflect.BytesKind:
		text, err := text(value, vars)
		return protoreflect.ValueOfBytes([]byte(text)), err
	case protoreflect.StringKind:
		text, err := text(value, vars)
		return protoreflect.ValueOfString(text), err
	case protoreflect.BoolKind:
		truth, ok := value.(bool)
		if !ok {
			return none, fmt.Errorf("%v is not true or false", value)
		}
		return protoreflect.ValueOfBool(truth), nil
	case protoreflect.EnumKind:
		if name, ok := value.(string); ok {
			found := field.Enum().Values().ByName(protoreflect.Name(name))
			if found == nil {
				return none, fmt.Errorf("no value %s", name)
			}
			return protoreflect.ValueOfEnum(found.Number()), nil
		}
		number, err := number(value, vars)
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number)), err
	case protoreflect.Int64Kind:
		number, err := number(value, vars)
		return protoreflect.ValueOfInt64(number), err
	case protoreflect.Uint64Kind:
		number, err := number(value, vars)
		return protoreflect.ValueOfUint64(uint64(number)), err
	case protoreflect.Int32Kind:
		number, err := number(value, vars)
		return protoreflect.ValueOfInt32(int32(number)), err
	case protoreflect.Uint32Kind:
		number, err := number(value, vars)
		return protoreflect.ValueOfUint32(uint32(number)), err
	}
	return none, fmt.Errorf("fields of kind %s are not known here", field.Kind())
}

// text takes "abc", {"text": "x", "times": 1000} or {"hex_of": "lease", "after": "name/"}.
func text(value any, vars map[string]int64) (string, error) {
	switch value := value.(type) {
	case string:
		return value, nil
	case map[string]any:
		if name, ok := value["hex_of"].(string); ok {
			after, _ := value["after"].(string)
			return after + strconv.FormatInt(vars[name], 16), nil
		}
		text, isText := value["text"].(string)
		times, isNumber := value["times"].(float64)
		if isText && isNumber {
			return strings.Repeat(text, int(times)), nil
		}
	}
	return "", fmt.Errorf("%v is not text", value)
}

// number takes 7, "7", "$name", "$name+7" and "$name-7".
func number(value any, vars map[string]int64) (int64, error) {
	switch value := value.(type) {
	case float64:
		return int64(value), nil
	case int:
		return int64(value), nil
	case int64:
		return value, nil
	case string:
		rest, isExpression := strings.CutPrefix(value, "$")
		if !isExpression {
			return strconv.ParseInt(value, 10, 64)
		}
		name, add := rest, int64(0)
		if at := strings.IndexAny(rest, "+-"); at > 0 {
			parsed, err := strconv.ParseInt(rest[at:], 10, 64)
			if err != nil {
				return 0, err
			}
			name, add = rest[:at], parsed
		}
		saved, ok := vars[name]
		if !ok {
			return 0, fmt.Errorf("nothing is saved as %s", name)
		}
		return saved + add, nil
	}
	return 0, fmt.Errorf("%v is not a number", value)
}

// pick reads a number out of an answer by a path such as "responses.0.response_range.count".
func pick(message protoreflect.Message, where string) (int64, error) {
	steps := strings.Split(where, ".")
	for i := 0; i < len(steps); i++ {
		field := message.Descriptor().Fields().ByName(protoreflect.Name(steps[i]))
		if field == nil {
			return 0, fmt.Errorf("%s has no field %s", message.Descriptor().FullName(), steps[i])
		}
		value := message.Get(field)
		if field.IsList() && i+1 < len(steps) {
			at, err := strconv.Atoi(steps[i+1])
			if err != nil || at >= value.List().Len() {
				return 0, fmt.Errorf("%s: no element %s", where, steps[i+1])
			}
			value, i = value.List().Get(at), i+1
		}
		if i+1 == len(steps) {
			switch number := value.Interface().(type) {
			case int64:
				return number, nil
			case uint64:
				return int64(number), nil
			}
			return 0, fmt.Errorf("%s is not a number", where)
		}
		if field.Message() == nil {
			return 0, fmt.Errorf("%s is not a message", where)
		}
		message = value.Message()
	}
	return 0, fmt.Errorf("%s is empty", where)
}
