package rule

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// CEL's cost limit bounds what an evaluation reads, not what it allocates: the cost of a call is computed after the call, from its
// arguments. So the resources that a call needs are estimated before it, from its arguments.
const (
	// maxAllocated bounds the bytes that the calls of one evaluation allocate, and the weight of the lists and maps that it builds.
	maxAllocated = 64 << 20
	// maxElements bounds the elements of a list to those that can be rendered.
	maxElements = maxRendered / valueBytes
	// maxWeight bounds the weight of a list or map, which may hold the same value many times: comparing it, or formatting it in an error,
	// takes as long as if it held copies.
	maxWeight = 2 * maxRendered
	// maxWork bounds the steps of one call, which cannot be interrupted: about a second.
	maxWork = 1 << 30
	// workUninterrupted is the number of steps between checks of the context.
	workUninterrupted = 1 << 16
)

// resources are the upper bounds of the resources that a call uses.
type resources struct {
	result   int // allocated bytes of the returned text
	elements int // of the returned list, whose allocation counts as scratch
	scratch  int // other allocated bytes
	work     int // steps
}

// usage accounts for the resources of one evaluation. It is a CEL value, so that calls receive it as an argument that expressions do not
// see.
type usage struct {
	types.Null
	ctx       context.Context //nolint:containedctx // it lives as long as the evaluation
	allocated int
	work      int
}

// usageName is not a valid identifier in CEL, so no expression can refer to it.
const usageName = "@usage"

// evaluation is the activation of an evaluation: the variables, and the usage.
type evaluation struct {
	cel.Activation
	usage usage
}

// ResolveName returns a variable.
func (e *evaluation) ResolveName(name string) (any, bool) {
	if name == usageName {
		return &e.usage, true
	}
	return e.Activation.ResolveName(name)
}

func usageOf(frame *interpreter.ExecutionFrame) *usage {
	if found, ok := frame.ResolveName(usageName); ok {
		return found.(*usage)
	}
	return &usage{ctx: context.Background()} // constant folding during compilation
}

// charge accounts for a call. It returns an error for a call that must not run. It cancels an evaluation that exceeds its budget, because
// an expression can ignore an error.
func (u *usage) charge(function string, need resources) ref.Val {
	if need.result > maxRendered || need.elements > maxElements {
		return tooLarge(function)
	}
	if need.work > maxWork {
		return types.NewErr("%s: the call would take too long", function)
	}
	u.allocate(function, max(0, need.result)+max(0, need.scratch))
	u.addWork(need.work)
	return nil
}

func tooLarge(function string) ref.Val {
	return types.NewErr("%s: the result would be larger than %d bytes", function, maxRendered)
}

func (u *usage) allocate(function string, bytes int) {
	if u.allocated += bytes; u.allocated < 0 || u.allocated > maxAllocated {
		u.allocated = maxAllocated + 1
		panic(interpreter.EvalCancelledError{
			Cause:   interpreter.CostLimitExceeded,
			Message: fmt.Sprintf("operation cancelled: %s: the evaluation would use more than %d bytes of memory", function, maxAllocated),
		})
	}
}

// addWork counts steps, and checks the context every workUninterrupted steps.
func (u *usage) addWork(work int) {
	if u.work += work; u.work < workUninterrupted {
		return
	}
	u.work = 0
	if err := u.ctx.Err(); err != nil {
		panic(interpreter.EvalCancelledError{Cause: interpreter.ContextCancelled, Message: "operation interrupted"})
	}
}

// weigh returns the weight of a value, as native counts it: valueBytes for each contained value, and the bytes of texts. It stops at a
// limit.
func (u *usage) weigh(value any, limit int) int { return u.scale(value, limit).weight }

func (u *usage) scale(value any, limit int) scale {
	scale := scale{limit: limit}
	scale.add(value)
	u.addWork(scale.weight / valueBytes)
	return scale
}

// scale sums weights.
type scale struct {
	weight, limit int
	// deferred is the part of the weight of what is not decoded, and takes no memory.
	deferred int
}

func (s *scale) add(value any) {
	s.weight += valueBytes
	switch value := value.(type) {
	case types.String:
		s.weight += len(value)
	case types.Bytes:
		s.weight += len(value)
	case string:
		s.weight += len(value)
	case map[string]any:
		for name, element := range value {
			if s.weight > s.limit {
				return
			}
			s.weight += valueBytes + len(name)
			s.add(element)
		}
	case []any:
		for _, element := range value {
			if s.weight > s.limit {
				return
			}
			s.add(element)
		}
	case *types.Optional:
		if value.HasValue() {
			s.add(value.GetValue())
		}
	case deferred:
		weight := value.weight()
		s.weight += weight
		s.deferred += weight
	case traits.Lister:
		if length := listLength(value); length > s.limit/valueBytes {
			s.weight += product(length, valueBytes)
			return
		}
		types.ToFoldableList(value).Fold(list{s})
	case traits.Mapper:
		types.ToFoldableMap(value).Fold(s)
	case []string:
		for _, text := range value {
			s.weight += valueBytes + len(text)
		}
	}
}

// FoldEntry adds an entry of a map.
func (s *scale) FoldEntry(key, value any) bool {
	s.add(key)
	s.add(value)
	return s.weight <= s.limit
}

// list sums the weights of the elements of lists, whose keys are indexes.
type list struct{ *scale }

// FoldEntry adds an element.
func (l list) FoldEntry(_, value any) bool {
	l.add(value)
	return l.weight <= l.limit
}

// chargeContainer accounts for a new list or map of values.
func (u *usage) chargeContainer(name string, values ...ref.Val) ref.Val {
	for _, value := range values {
		scale := u.scale(value, maxWeight)
		if scale.weight > maxWeight {
			return types.NewErr("%s: the value would exceed %d bytes", name, maxWeight)
		}
		u.allocate(name, scale.weight-scale.deferred)
	}
	return nil
}

// measure estimates the resources of a call. It may return an error to refuse the call.
type measure func(u *usage, args []ref.Val) (resources, ref.Val)

// measured are the functions whose calls are measured. The functions in unmeasured need constant resources. A test checks that each
// function of the environment is in one of both.
var measured = map[string]measure{
	// Texts longer than the arguments.
	"_+_":           measureAdd,
	"replace":       measureReplace,
	"join":          measureJoin,
	"format":        measureFormat,
	"strings.quote": measureQuote,

	// Texts that are not longer; CEL converts each argument to an array of runes.
	"charAt":     measureRunes,
	"lowerAscii": measureRunes,
	"upperAscii": measureRunes,
	"substring":  measureRunes,

	// Lists of substrings, which share the bytes of the text.
	"split":       measureSplit,
	"find":        measureRegex,
	"findAll":     measureRegex,
	"matches":     measureRegex,
	"getQuery":    measureURL,
	"indexOf":     measureIndexOf,
	"lastIndexOf": measureIndexOf,

	"regex.extract":    measureExtract,
	"regex.extractAll": measureExtract,
	"regex.replace":    measureRegexReplace,

	// Encodings.
	"base64.decode": measureParsed,
	"base64.encode": measureBase64,
	"json":          measureJSON,

	// Lists.
	"lists.range":           measureRange,
	"reverse":               measureElements,
	"slice":                 measureElements,
	"sort":                  measureElements,
	"sum":                   measureElements,
	"@sortByAssociatedKeys": measureElements,
	"optional.unwrap":       measureElements,
	"unwrapOpt":             measureElements,
	"flatten":               measureFlatten,
	"distinct":              measureDistinct,

	// Comparisons of all elements, or of all pairs. They bound the comparison of snapshots in changed and changedTo.
	"_==_":            measureEqual,
	"_!=_":            measureEqual,
	"@in":             measureIn,
	"in":              measureIn,
	"_in_":            measureIn,
	"sets.contains":   measureSets,
	"sets.equivalent": measureSets,
	"sets.intersects": measureSets,

	// The accumulator of transformMap and transformMapEntry. The accumulator of map, filter and transformList uses + and a list of
	// one element.
	"cel.@mapInsert": measureMapInsert,

	// Conversions and parsers: results, scratch or errors are as long as the argument.
	"bool": measureParsed, "bytes": measureParsed, "double": measureParsed, "duration": measureParsed, "int": measureParsed,
	"string": measureParsed, "timestamp": measureParsed, "uint": measureParsed,
	"cidr": measureParsed, "containsCIDR": measureParsed, "containsIP": measureParsed, "ip": measureParsed,
	"ip.isCanonical": measureParsed, "isCIDR": measureParsed, "isIP": measureParsed,
	"isSemver": measureParsed, "semver": measureParsed, "isURL": measureParsed, "url": measureParsed,
	"validate": measureParsed, "format.named": measureParsed,
	"getDate": measureParsed, "getDayOfMonth": measureParsed, "getDayOfWeek": measureParsed, "getDayOfYear": measureParsed,
	"getFullYear": measureParsed, "getHours": measureParsed,
	"getMilliseconds": measureParsed, "getMinutes": measureParsed, "getMonth": measureParsed,
	"getSeconds": measureParsed, // the name of a time zone
	"quantity":   measureQuantity, "isQuantity": measureQuantity,
	"getEscapedPath": measureURL, "getHost": measureURL, "getHostname": measureURL, "getPort": measureURL, "getScheme": measureURL,
}

// unmeasured are the functions that allocate constant memory, and take at most the time of one pass over a text or a list.
var unmeasured = strings.Fields(`
	!_ -_ _%_ _&&_ _*_ _-_ _/_ _<=_ _<_ _>=_ _>_ _?_:_ _||_ @not_strictly_false __not_strictly_false__
	_?._ _[?_] _[_] optional.none optional.of optional.ofNonZeroValue or orValue value hasValue
	size contains startsWith endsWith trim dyn type first last isSorted max min
	add sub sign compareTo isGreaterThan isLessThan isInteger asInteger asApproximateFloat major minor patch
	family masked prefixLength isGlobalUnicast isLinkLocalMulticast isLinkLocalUnicast isLoopback isUnspecified
	netbox.changed netbox.changedTo
	format.byte format.date format.datetime format.dns1035Label format.dns1035LabelPrefix format.dns1123Label format.dns1123LabelPrefix
	format.dns1123Subdomain format.dns1123SubdomainPrefix format.labelValue format.qualifiedName format.uri format.uuid
	allowed check error errored fieldSelector group labelSelector name namespace path reason resource serviceAccount subresource
`) // the last line needs an authorizer, which the environment lacks

// bounds replaces the calls of programs by measured ones.
type bounds struct {
	implementations map[string]*functions.Overload // by overload, or by function
}

// loadImplementations loads the implementations of the functions of an environment.
func (b *bounds) loadImplementations(env *cel.Env) error {
	b.implementations = map[string]*functions.Overload{}
	for _, function := range env.Functions() {
		bindings, err := function.Bindings()
		if err != nil {
			return err
		}
		for _, binding := range bindings {
			b.implementations[binding.Operator] = binding
		}
	}
	return nil
}

// decorate replaces the calls and constructors of a program by measured ones, and its attributes by references.
func (b *bounds) decorate(node interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch node := node.(type) {
	case interpreter.InterpretableCall:
		if usesAccumulator(node) {
			var inner interpreter.InterpretableV2 = node
			if measure, ok := measured[node.Function()]; ok && isUnbounded(node) {
				var err error
				if inner, err = b.call(node, measure); err != nil {
					return nil, err
				}
			}
			return step{inner}, nil
		}
		if measure, ok := measured[node.Function()]; ok && isUnbounded(node) {
			return b.call(node, measure)
		}
		if isArithmetic(node) {
			return interpreter.NewCall(node.ID(), node.Function(), node.OverloadID(), node.Args(),
				mixed(b.implementation(node.Function(), node.OverloadID()))), nil
		}
	case interpreter.InterpretableAttribute:
		if fmt.Sprintf("%T", node) != "*interpreter.evalAttr" { // a new one; the types are not exported
			return node, nil
		}
		reference := referenceOf(node)
		if fmt.Sprintf("%T", node.Attr()) == "*interpreter.conditionalAttribute" {
			return conditional{reference}, nil
		}
		return reference, nil
	case interpreter.InterpretableConstructor:
		for _, value := range node.InitVals() {
			if _, constant := value.(interpreter.InterpretableConst); !constant {
				return &measuredConstructor{node}, nil
			}
		}
	}
	return node, nil
}

// step is a call on the accumulator of a loop, such as @result + [x]. CEL's cost tracker keeps observed values on a stack, scans all of it
// for a missing value, and removes the accumulator of the previous iteration when a call used it: so a loop of n takes n². The tracker does
// not see a step as a call, so it does not count the step's own cost of 1.
type step struct{ interpreter.InterpretableV2 }

// conditional is a ? b : c, the step of filter. CEL's cost tracker removes the branches of a conditional from its stack, but not the value
// of the conditional in the previous iteration. It removes other attributes, so conditional is one. It costs 1 instead of 0.
type conditional struct {
	interpreter.InterpretableAttribute
}

// Attr returns the attribute of the conditional.
func (c conditional) Attr() interpreter.Attribute { return attribute{c.InterpretableAttribute.Attr()} }

type attribute struct{ interpreter.Attribute }

// accumulator is the variable in which macros accumulate their result. It is not a valid identifier in expressions.
const accumulator = "@result"

func usesAccumulator(call interpreter.InterpretableCall) bool {
	switch call.Function() {
	case "_+_", "!_", "@not_strictly_false", "cel.@mapInsert":
	default:
		return false
	}
	switch first := call.Args()[0].(type) {
	case interpreter.InterpretableAttribute:
		named, ok := first.Attr().(interpreter.NamespacedAttribute)
		return ok && slices.Equal(named.CandidateVariableNames(), []string{accumulator})
	default:
		return call.Function() == "@not_strictly_false"
	}
}

// isUnbounded reports whether a call can need more than constant resources. Other calls skip the measurement.
func isUnbounded(call interpreter.InterpretableCall) bool {
	switch call.OverloadID() {
	case overloads.AddDouble, overloads.AddInt64, overloads.AddUint64, overloads.AddDurationDuration, overloads.AddDurationTimestamp,
		overloads.AddTimestampDuration, overloads.InMap:
		return false
	}
	switch call.Function() {
	case "_==_", "_!=_", "@in", "in", "_in_":
		for _, arg := range call.Args() {
			if constant, ok := arg.(interpreter.InterpretableConst); ok && !isContainer(constant.Value()) {
				return call.Function() != "_==_" && call.Function() != "_!=_"
			} else if ok {
				return false // as small as the expression
			}
		}
	}
	return true
}

func isContainer(value ref.Val) bool {
	switch value.(type) {
	case traits.Lister, traits.Mapper, *types.Optional:
		return true
	}
	return false
}

// measuredCall is a measured call. The embedded call has an additional argument, the usage.
type measuredCall struct {
	interpreter.InterpretableCall
	args []interpreter.InterpretableV2
}

// Args returns the arguments in the expression, from which CEL computes the cost.
func (c *measuredCall) Args() []interpreter.InterpretableV2 { return c.args }

// usageNode is the additional argument.
type usageNode struct{}

func (usageNode) ID() int64                                      { return 0 }
func (usageNode) Eval(vars interpreter.Activation) ref.Val       { return usageOf(interpreter.AsFrame(vars)) }
func (usageNode) Exec(frame *interpreter.ExecutionFrame) ref.Val { return usageOf(frame) }

func (b *bounds) call(call interpreter.InterpretableCall, measure measure) (interpreter.InterpretableV2, error) {
	function, overload, args := call.Function(), call.OverloadID(), call.Args()
	run := b.implementation(function, overload)
	if pattern, ok := constantPattern(function, args); ok {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		args = slices.Clone(args)
		args[1] = variable{args[1]} // otherwise CEL replaces the call by an unmeasured one
		run = func(args ...ref.Val) ref.Val { return search(compiled, function, args) }
	} else if isRegex(function) {
		run = func(args ...ref.Val) ref.Val {
			pattern, ok := args[1].(types.String)
			if !ok {
				return types.MaybeNoSuchOverloadErr(args[1])
			}
			compiled, err := regexp.Compile(string(pattern))
			if err != nil {
				return types.WrapErr(err)
			}
			return search(compiled, function, args)
		}
	}
	if add := mixed(run); function == "_+_" {
		run = func(args ...ref.Val) ref.Val {
			first, ok := args[0].(traits.Lister)
			second, okSecond := args[1].(traits.Lister)
			if _, accumulator := first.(traits.MutableLister); ok && okSecond && !accumulator {
				return concatenate(first, second)
			}
			return add(args...)
		}
	}
	if function == "sum" || function == "sort" || function == "@sortByAssociatedKeys" {
		run = listed(function, run)
	}
	after := func(*usage, ref.Val) {}
	if function == "findAll" {
		after = func(usage *usage, found ref.Val) { usage.allocate(function, matchBytes*listLength(found)) }
	}
	return &measuredCall{args: args, InterpretableCall: interpreter.NewCall(call.ID(), function, overload,
		append(slices.Clip(args), usageNode{}),
		func(args ...ref.Val) ref.Val {
			last := len(args) - 1
			usage, args := args[last].(*usage), args[:last]
			need, refusal := measure(usage, args)
			if refusal == nil {
				refusal = usage.charge(displayName(function), need)
			}
			if refusal != nil {
				return refusal
			}
			result := run(args...)
			after(usage, result)
			return result
		})}, nil
}

// displayName returns the name of a function as users write it.
func displayName(function string) string { return strings.Trim(function, "_@") }

// implementation returns the implementation of a call, resolved as CEL's interpreter does.
func (b *bounds) implementation(function, overload string) functions.FunctionOp {
	switch function {
	case "_==_":
		return func(args ...ref.Val) ref.Val { return types.Equal(args[0], args[1]) }
	case "_!=_":
		return func(args ...ref.Val) ref.Val { return types.Bool(types.Equal(args[0], args[1]) != types.True) }
	}
	found := b.implementations[overload]
	if found == nil {
		found = b.implementations[function]
	}
	return func(args ...ref.Val) ref.Val {
		if found != nil && (found.OperandTrait == 0 || args[0].Type().HasTrait(found.OperandTrait)) {
			switch {
			case len(args) == 1 && found.Unary != nil:
				return found.Unary(args[0])
			case len(args) == 2 && found.Binary != nil:
				return found.Binary(args[0], args[1])
			case found.Function != nil:
				return found.Function(args...)
			}
		}
		if receiver, ok := args[0].(traits.Receiver); ok && args[0].Type().HasTrait(traits.ReceiverType) {
			return receiver.Receive(function, overload, args[1:])
		}
		return types.NewErr("no such overload: %s", function)
	}
}

func isRegex(function string) bool {
	return function == "matches" || function == "find" || function == "findAll"
}

// constantPattern returns the pattern of a call whose pattern is a constant.
func constantPattern(function string, args []interpreter.InterpretableV2) (string, bool) {
	if !isRegex(function) || len(args) < 2 {
		return "", false
	}
	constant, ok := args[1].(interpreter.InterpretableConst)
	if !ok {
		return "", false
	}
	pattern, ok := constant.Value().(types.String)
	return string(pattern), ok
}

// variable wraps a constant argument so that CEL does not see that it is constant.
type variable struct{ interpreter.InterpretableV2 }

// search implements matches, find and findAll. findAll stops after maxElements matches.
func search(pattern *regexp.Regexp, function string, args []ref.Val) ref.Val {
	text, ok := args[0].(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	switch function {
	case "matches":
		return types.Bool(pattern.MatchString(string(text)))
	case "find":
		return types.String(pattern.FindString(string(text)))
	}
	limit := number(args, 2, -1)
	if limit < 0 || limit > maxElements {
		limit = maxElements + 1
	}
	found := pattern.FindAllString(string(text), limit)
	if len(found) > maxElements {
		return tooLarge(function)
	}
	return types.NewStringList(types.DefaultTypeAdapter, found)
}

// measuredConstructor is a list or map literal, [a, b] or {"a": b}. It is small itself, but can hold large values many times.
type measuredConstructor struct {
	interpreter.InterpretableConstructor
}

// Exec returns the list or map.
func (c *measuredConstructor) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	value := c.InterpretableConstructor.Exec(frame)
	if types.IsUnknownOrError(value) {
		return value
	}
	usage := usageOf(frame)
	usage.allocate("list or map", elementBytes*len(c.InitVals()))
	if refusal := usage.chargeContainer("list or map", value); refusal != nil {
		return refusal
	}
	return value
}

// Eval is like Exec.
func (c *measuredConstructor) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

// Bytes that CEL allocates, including the growth of slices.
const (
	runeBytes     = 4
	partBytes     = 16  // of a substring
	matchBytes    = 80  // of a regex match
	submatchBytes = 200 // of a regex match with a group
	elementBytes  = 32  // of a list element
	compiledBytes = 200 // per byte of a pattern
	parsedBytes   = 8   // per byte of a parsed text
)

// textLength returns the length of a text, 0 for other values.
func textLength(value ref.Val) int {
	switch value := value.(type) {
	case types.String:
		return len(value)
	case types.Bytes:
		return len(value)
	}
	return 0
}

// listLength returns the length of a list, 0 for other values.
func listLength(value ref.Val) int {
	if list, ok := value.(traits.Lister); ok {
		if size, ok := list.Size().(types.Int); ok {
			return int(size)
		}
	}
	return 0
}

func number(args []ref.Val, at, otherwise int) int {
	if at < len(args) {
		if number, ok := args[at].(types.Int); ok {
			return int(number)
		}
	}
	return otherwise
}

// product returns a·b, saturated above all limits.
func product(a, b int) int {
	if a > 0 && b > math.MaxInt32*16/a {
		return math.MaxInt32 * 16
	}
	return a * b
}

func measureAdd(_ *usage, args []ref.Val) (resources, ref.Val) {
	switch first := args[0].(type) {
	case types.String, types.Bytes:
		return resources{result: textLength(first) + textLength(args[1])}, nil
	case traits.Lister:
		need := resources{elements: listLength(first) + listLength(args[1])}
		if _, accumulator := first.(traits.MutableLister); !accumulator {
			need.scratch, need.work = elementBytes*need.elements, need.elements
		}
		return need, nil
	}
	return resources{}, nil
}

// concatenate copies two lists. CEL returns a view, in which each access walks all concatenated lists.
func concatenate(first, second traits.Lister) ref.Val {
	joined := make([]ref.Val, 0, listLength(first)+listLength(second))
	for _, list := range []traits.Lister{first, second} {
		for at := list.Iterator(); at.HasNext() == types.True; {
			joined = append(joined, at.Next())
		}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, joined)
}

func measureReplace(_ *usage, args []ref.Val) (resources, ref.Val) {
	text, okText := args[0].(types.String)
	old, okOld := args[1].(types.String)
	replacement, okReplacement := args[2].(types.String)
	if !okText || !okOld || !okReplacement {
		return resources{}, nil
	}
	count := strings.Count(string(text), string(old))
	if limit := number(args, 3, -1); limit >= 0 {
		count = min(count, limit)
	}
	return resources{result: len(text) + product(count, len(replacement)) - count*len(old), work: len(text)}, nil
}

func measureJoin(u *usage, args []ref.Val) (resources, ref.Val) {
	list, ok := args[0].(traits.Lister)
	if !ok {
		return resources{}, nil
	}
	separator := 0
	if len(args) > 1 {
		separator = textLength(args[1])
	}
	length := 0
	for at := list.Iterator(); length-separator <= maxRendered && at.HasNext() == types.True; {
		element := at.Next()
		if isContainer(element) {
			return resources{}, types.NewErr("join: invalid input: a %s", element.Type().TypeName()) // CEL's error would format all of it
		}
		length += textLength(element) + separator
	}
	u.addWork(listLength(list))
	return resources{result: max(0, length-separator), scratch: length}, nil // growth of the builder
}

// measureFormat sums the upper bounds of the clauses, %[.precision]verb.
func measureFormat(u *usage, args []ref.Val) (resources, ref.Val) {
	format, ok := args[0].(types.String)
	values, isList := args[1].(traits.Lister)
	if !ok || !isList {
		return resources{}, nil
	}
	const numeral = 700 // digits of the largest double in decimal, with commas
	length, clause := len(format), 0
	for rest := string(format); length <= maxRendered; {
		at := strings.IndexByte(rest, '%')
		if at < 0 || at+1 >= len(rest) {
			break
		}
		if rest = rest[at+1:]; rest[0] == '%' {
			rest = rest[1:]
			continue
		}
		if rest[0] == '.' {
			digits := rest[1:]
			digits = digits[:len(digits)-len(strings.TrimLeft(digits, "0123456789"))]
			precision, err := strconv.Atoi(digits)
			if err != nil && digits != "" {
				precision = math.MaxInt32
			}
			length += 2 * precision
			rest = rest[1+len(digits):]
		}
		if clause < listLength(values) {
			value := values.Get(types.Int(clause))
			length += numeral
			if isContainer(value) {
				length += 6 * u.weigh(value, maxRendered) // an integer weighs valueBytes, and has up to 20 digits
			} else {
				length += 2 * textLength(value) // as hexadecimal digits
			}
		}
		clause++
	}
	return resources{result: length, scratch: 3 * length}, nil
}

func measureQuote(_ *usage, args []ref.Val) (resources, ref.Val) {
	text, ok := args[0].(types.String)
	if !ok {
		return resources{}, nil
	}
	length := len(`""`) + len(text)
	for _, r := range string(text) {
		if r == utf8.RuneError {
			length += utf8.UTFMax
		} else if strings.ContainsRune("\a\b\f\n\r\t\v\\\"", r) {
			length++
		}
	}
	return resources{result: length, scratch: 4 * length, work: len(text)}, nil
}

// measureRunes covers the array of runes of a text, and the resulting text.
func measureRunes(_ *usage, args []ref.Val) (resources, ref.Val) {
	length := textLength(args[0])
	return resources{scratch: (runeBytes + 1) * length, work: length}, nil
}

func measureSplit(_ *usage, args []ref.Val) (resources, ref.Val) {
	text, okText := args[0].(types.String)
	separator, okSeparator := args[1].(types.String)
	if !okText || !okSeparator {
		return resources{}, nil
	}
	parts := strings.Count(string(text), string(separator)) + 1
	if limit := number(args, 2, -1); limit >= 0 {
		parts = min(parts, limit)
	}
	return resources{elements: parts, scratch: parts * partBytes, work: len(text)}, nil
}

// measureRegex counts the length of the text times that of the pattern as steps, with a factor that makes the limit equal to CEL's cost
// limit. The result of findAll is charged after the call.
func measureRegex(_ *usage, args []ref.Val) (resources, ref.Val) {
	const factor = 25
	text, pattern := textLength(args[0]), textLength(args[1])
	return resources{work: product(factor*(text+1), pattern), scratch: compiledBytes * pattern}, nil
}

// measureExtract assumes a match at each byte of the text, which CEL collects before it counts them.
func measureExtract(u *usage, args []ref.Val) (resources, ref.Val) {
	need, refusal := measureRegex(u, args)
	need.scratch += submatchBytes * (textLength(args[0]) + 1)
	return need, refusal
}

// measureRegexReplace assumes a match at each byte of the text. All values of a group together are not longer than the text.
func measureRegexReplace(u *usage, args []ref.Val) (resources, ref.Val) {
	need, refusal := measureExtract(u, args)
	if replacement, ok := args[2].(types.String); ok {
		text := textLength(args[0])
		matches := text + 1
		if limit := number(args, 3, -1); limit >= 0 {
			matches = min(matches, limit)
		}
		need.result = text + product(matches, len(replacement)) + product(text, strings.Count(string(replacement), `\\`))
	}
	return need, refusal
}

func measureBase64(_ *usage, args []ref.Val) (resources, ref.Val) {
	length := textLength(args[0])
	return resources{result: (length + 2) / 3 * 4, work: length}, nil
}

// measureJSON assumes the values that take most memory, nested lists of a byte each.
func measureJSON(_ *usage, args []ref.Val) (resources, ref.Val) {
	const jsonBytes = 64 // per byte
	length := textLength(args[0])
	return resources{scratch: jsonBytes * length, work: length}, nil
}

func measureURL(_ *usage, args []ref.Val) (resources, ref.Val) {
	parsed, ok := args[0].Value().(*url.URL)
	if !ok {
		return resources{}, nil
	}
	const queryBytes = 64 // per byte: an entry can be a single letter
	return resources{scratch: queryBytes*len(parsed.RawQuery) + 4*(len(parsed.Host)+len(parsed.Path))}, nil
}

// measureIndexOf counts the worst case of CEL's search, which compares at each index. Ordinary texts take far less.
func measureIndexOf(u *usage, args []ref.Val) (resources, ref.Val) {
	if list, ok := args[0].(traits.Lister); ok {
		return compareAll(u, list, args[1])
	}
	text, part := textLength(args[0]), textLength(args[1])
	if part > text {
		return resources{scratch: runeBytes * (text + part)}, nil
	}
	return resources{scratch: runeBytes * (text + part), work: product(text-part+1, part)}, nil
}

func measureRange(_ *usage, args []ref.Val) (resources, ref.Val) {
	length := number(args, 0, 0)
	return resources{elements: length, scratch: product(length, elementBytes)}, nil
}

func measureElements(_ *usage, args []ref.Val) (resources, ref.Val) {
	return resources{scratch: 2 * elementBytes * listLength(args[0])}, nil
}

func measureFlatten(u *usage, args []ref.Val) (resources, ref.Val) {
	length := flattened(args[0], number(args, 1, 1))
	u.addWork(length)
	return resources{elements: length, scratch: product(length, 2*elementBytes)}, nil
}

// flattened returns the number of elements of a flattened list. It stops above maxRendered.
func flattened(value ref.Val, depth int) int {
	list, ok := value.(traits.Lister)
	if !ok {
		return 1
	}
	length := 1
	for at := list.Iterator(); length <= maxRendered && at.HasNext() == types.True; {
		if element := at.Next(); depth > 0 {
			length += flattened(element, depth-1)
		} else {
			length++
		}
	}
	return length
}

func measureDistinct(u *usage, args []ref.Val) (resources, ref.Val) {
	length := listLength(args[0])
	weight := u.weigh(args[0], maxWeight)
	if weight > maxWeight {
		return resources{work: maxWork + 1}, nil
	}
	return resources{scratch: elementBytes * length, work: product(length, weight/valueBytes)}, nil
}

// distinctCost is the number of comparisons. CEL's cost, the square of the length, does not allow the sites of 5000 devices, which are few.
func distinctCost(args []ref.Val, result ref.Val) *uint64 {
	return new(uint64(listLength(args[0]) * max(listLength(result), 1))) //nolint:gosec // G115: lengths
}

// measureEqual refuses a comparison of two values that are both too large: the time depends on the smaller one.
func measureEqual(u *usage, args []ref.Val) (resources, ref.Val) {
	if !isContainer(args[0]) || !isContainer(args[1]) {
		return resources{}, nil
	}
	if u.weigh(args[0], maxWeight) > maxWeight && u.weigh(args[1], maxWeight) > maxWeight {
		return resources{}, types.NewErr("comparison: both values exceed %d bytes", maxWeight)
	}
	return resources{}, nil
}

func measureIn(u *usage, args []ref.Val) (resources, ref.Val) {
	if list, ok := args[1].(traits.Lister); ok {
		return compareAll(u, list, args[0])
	}
	return resources{}, nil
}

// compareAll measures a comparison of a value with each element of a list.
func compareAll(u *usage, list traits.Lister, value ref.Val) (resources, ref.Val) {
	weight := valueBytes
	if isContainer(value) {
		weight = u.weigh(value, maxWeight)
	}
	return resources{work: product(listLength(list), weight/valueBytes)}, nil
}

// measureSets measures a comparison of all pairs of elements.
func measureSets(u *usage, args []ref.Val) (resources, ref.Val) {
	return resources{work: 2 * product(listLength(args[1]), u.weigh(args[0], maxWeight)/valueBytes)}, nil
}

func measureMapInsert(u *usage, args []ref.Val) (resources, ref.Val) {
	need := resources{scratch: 4 * elementBytes}
	if _, accumulator := args[0].(traits.MutableMapper); !accumulator {
		return need, u.chargeContainer("map", args...)
	}
	return need, u.chargeContainer("map", args[1:]...)
}

func measureParsed(_ *usage, args []ref.Val) (resources, ref.Val) {
	length := 0
	for _, arg := range args {
		length += textLength(arg)
	}
	return resources{scratch: parsedBytes * length, work: length}, nil
}

// measureQuantity refuses exponents that lead to numbers of millions of digits in arithmetic.
func measureQuantity(u *usage, args []ref.Val) (resources, ref.Val) {
	const maxExponent = 1000
	if text, ok := args[0].(types.String); ok {
		if at := strings.LastIndexAny(string(text), "eE"); at >= 0 {
			exponent, err := strconv.Atoi(string(text[at+1:]))
			if err == nil && (exponent > maxExponent || exponent < -maxExponent) {
				return resources{}, types.NewErr("quantity: the exponent %d is too large", exponent)
			}
		}
	}
	return measureParsed(u, args)
}
