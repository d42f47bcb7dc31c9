package rule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// reference is a variable or another value, with the members that an expression selects of it, such as data.role.slug. If a member is
// missing, its error names the path, and what is there.
type reference struct {
	interpreter.InterpretableAttribute
	root  string
	steps []string // .role, [0], ["a key"], or unknownStep
}

const (
	// unknownRoot stands for a value that is not a variable, such as the result of a call, unknownStep for an index that is computed.
	unknownRoot, unknownStep = "(…)", "[…]"
	// maxPathBytes, maxKeys, maxKeyBytes and maxKeysBytes bound the text of an error: keys are data of the event.
	maxPathBytes, maxKeys, maxKeyBytes, maxKeysBytes = 100, 10, 60, 200
)

// referenceOf returns the reference of an attribute to which no qualifier was added.
func referenceOf(attribute interpreter.InterpretableAttribute) *reference {
	root := unknownRoot
	if named, ok := attribute.Attr().(interpreter.NamespacedAttribute); ok {
		root = named.CandidateVariableNames()[0]
	}
	return &reference{InterpretableAttribute: attribute, root: root}
}

// AddQualifier adds the selection of a member.
func (r *reference) AddQualifier(qualifier interpreter.Qualifier) (interpreter.Attribute, error) {
	r.steps = append(r.steps, written(qualifier))
	return r.InterpretableAttribute.AddQualifier(&member{Qualifier: qualifier, reference: r, at: len(r.steps) - 1})
}

// written returns the selection of a member as users write it.
func written(qualifier interpreter.Qualifier) string {
	constant, ok := qualifier.(interpreter.ConstantQualifier)
	if !ok {
		return unknownStep
	}
	name, ok := constant.Value().(types.String)
	switch {
	case !ok:
		return fmt.Sprintf("[%v]", constant.Value())
	case isIdentifier(string(name)):
		return "." + string(name)
	default:
		return "[" + strconv.Quote(string(name)) + "]"
	}
}

func isIdentifier(name string) bool {
	for at, r := range name {
		isLetter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !isLetter && (at == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// path returns the selection of the first steps.
func (r *reference) path(steps int) string {
	return oneline.Of(r.root+strings.Join(r.steps[:steps], ""), maxPathBytes)
}

// optional returns the selection in which the members from a step on may be missing, such as data.?tenant.?slug; empty if it cannot be
// written.
func (r *reference) optional(from int) string {
	var path strings.Builder
	path.WriteString(r.root)
	for at, step := range r.steps {
		if at >= from {
			step = step[:1] + "?" + step[1:]
		}
		path.WriteString(step)
	}
	if r.root == unknownRoot || slices.Contains(r.steps, unknownStep) || path.Len() > maxPathBytes {
		return ""
	}
	return path.String()
}

// member selects a member of a value. It only acts on errors.
type member struct {
	interpreter.Qualifier
	reference *reference
	at        int // in the steps
}

// Qualify returns the member of an object.
func (m *member) Qualify(vars interpreter.Activation, object any) (any, error) {
	value, err := m.Qualifier.Qualify(vars, object)
	if err == nil {
		return value, nil
	}
	if _, ok := errors.AsType[*missingError](err); ok { // of the index
		return nil, err
	}
	return nil, &missingError{error: err, member: m, object: object}
}

// missingError is the error of a member that cannot be selected. An expression can ignore thousands of them, so its text is made on demand.
type missingError struct {
	error
	member *member
	object any
}

// Error returns the path, and what is there instead.
func (e *missingError) Error() string {
	reference, at := e.member.reference, e.member.at
	path, parent := reference.path(at+1), reference.path(at)
	_, named := e.member.Qualifier.(interpreter.ConstantQualifier)
	text := e.error.Error()
	if !named && !strings.HasPrefix(text, "no such key") && !strings.HasPrefix(text, "index out of bounds") {
		return text
	}
	switch object := types.DefaultTypeAdapter.NativeToValue(e.object).(type) {
	case types.Null:
		if optional := reference.optional(max(at-1, 0)); optional != "" {
			return fmt.Sprintf(`%s: %s is null; write %s.orValue("") or test %s != null first`, path, parent, optional, parent)
		}
		return fmt.Sprintf("%s: %s is null; test it first", path, parent)
	case traits.Mapper:
		if named {
			text = "no such key"
		}
		return fmt.Sprintf("%s: %s; %s has %s", path, oneline.Of(text, maxPathBytes), parent, keys(object))
	case traits.Lister:
		if strings.HasPrefix(text, "index out of bounds") {
			return fmt.Sprintf("%s: %s; %s has %d elements", path, text, parent, object.Size())
		}
		return fmt.Sprintf("%s: %s is a list; select an element first, as in %s[0]", path, parent, parent)
	case types.String, types.Int, types.Uint, types.Double, types.Bool, types.Bytes, types.Timestamp, types.Duration:
		return fmt.Sprintf("%s: %s has the type %s, which has no keys", path, parent, object.Type().TypeName())
	}
	return text
}

// keys lists the first keys of a map, in alphabetical order.
func keys(object traits.Mapper) string {
	var names []string
	for at := object.Iterator(); at.HasNext() == types.True; {
		names = append(names, fmt.Sprint(at.Next().Value()))
	}
	if len(names) == 0 {
		return "no keys"
	}
	slices.Sort(names)
	var listed []string
	length := 0
	for _, name := range names {
		name = oneline.Of(name, maxKeyBytes)
		if length += len(", ") + len(name); len(listed) == maxKeys || length > maxKeysBytes {
			break
		}
		listed = append(listed, name)
	}
	if more := len(names) - len(listed); more > 0 {
		listed = append(listed, fmt.Sprintf("… (%d more)", more))
	}
	return strings.Join(listed, ", ")
}
