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

// CEL's cost limit bounds what an evaluation reads, not what it makes: it is counted after a call, and from the arguments of it. So the
// needs of a call are worked out before it, from its arguments.
const (
	// maxAllocated bounds, in bytes, all that the calls of one evaluation allocate, and the weight of the lists and maps that it builds.
	maxAllocated = 64 << 20
	// maxElements bounds the elements of a list, so that no list is longer than what can be rendered.
	maxElements = maxRendered / valueBytes
	// maxWeight bounds the weight of a list or map, which may hold the same value many times: to compare it, or to write it into an error,
	// takes as long as if it held copies.
	maxWeight = 2 * maxRendered
	// maxWork bounds the steps of one call, which nothing interrupts: about a second.
	maxWork = 1 << 30
	// workUninterrupted is after how many steps calls look at the context.
	workUninterrupted = 1 << 16
)

// needs is what a call needs.
type needs struct {
	result   int // bytes of the text that it returns, all of which it allocates
	elements int // of the list that it returns, of which it allocates scratch
	scratch  int // bytes that it allocates besides
	work     int // steps
}

// usage is what one evaluation used. It is a value of CEL, so that the calls get it as an argument that expressions do not see.
type usage struct {
	types.Null
	ctx       context.Context //nolint:containedctx // it lives as long as the evaluation
	allocated int
	work      int
}

// usageName is not an identifier in CEL, so no expression can name it.
const usageName = "@usage"

// evaluation is what an evaluation sees: the variables, and what it used.
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
	return &usage{ctx: context.Background()} // a constant, which is worked out while compiling
}

// take accounts for a call, and returns why it must not take place. It ends the evaluation when that used up what it may, because an
// error may be no reason for the expression to fail.
func (u *usage) take(function string, need needs) ref.Val {
	if need.result > maxRendered || need.elements > maxElements {
		return tooLarge(function)
	}
	if need.work > maxWork {
		return types.NewErr("%s: it would take too long", function)
	}
	u.allocate(function, max(0, need.result)+max(0, need.scratch))
	u.spend(need.work)
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
			Message: fmt.Sprintf("operation cancelled: %s: the evaluation would take more than %d bytes of memory", function, maxAllocated),
		})
	}
}

// spend looks at the context after some work.
func (u *usage) spend(work int) {
	if u.work += work; u.work < workUninterrupted {
		return
	}
	u.work = 0
	if err := u.ctx.Err(); err != nil {
		panic(interpreter.EvalCancelledError{Cause: interpreter.ContextCancelled, Message: "operation interrupted"})
	}
}

// weigh returns the weight of a value: valueBytes for each value in it, and the bytes of texts, as native counts. It stops at a limit.
func (u *usage) weigh(value any, limit int) int {
	scale := scale{limit: limit}
	scale.add(value)
	u.spend(scale.weight / valueBytes)
	return scale.weight
}

// scale adds up weights.
type scale struct {
	weight, limit int
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

// list adds the elements of lists, whose keys are their places.
type list struct{ *scale }

// FoldEntry adds an element.
func (l list) FoldEntry(_, value any) bool {
	l.add(value)
	return l.weight <= l.limit
}

// build accounts for a list or map that is made of values.
func (u *usage) build(what string, values ...ref.Val) ref.Val {
	for _, value := range values {
		weight := u.weigh(value, maxWeight)
		if weight > maxWeight {
			return types.NewErr("%s: it would hold more than %d bytes", what, maxWeight)
		}
		u.allocate(what, weight)
	}
	return nil
}

// measure works out what a call needs. It may refuse the call by an error.
type measure func(u *usage, args []ref.Val) (needs, ref.Val)

// measured are the functions whose calls are measured. Those of unmeasured need nothing that grows with their arguments; a test holds
// that each function of the environment is in one of both.
var measured = map[string]measure{
	// Texts that grow.
	"_+_":           measureAdd,
	"replace":       measureReplace,
	"join":          measureJoin,
	"format":        measureFormat,
	"strings.quote": measureQuote,

	// Texts that do not; CEL makes an array of runes of each.
	"charAt":     runes,
	"lowerAscii": runes,
	"upperAscii": runes,
	"substring":  runes,

	// Lists of parts: headers of texts, which share the bytes.
	"split":       measureSplit,
	"find":        measureRegex,
	"findAll":     measureRegex,
	"matches":     measureRegex,
	"getQuery":    measureURL,
	"indexOf":     measureIndexOf,
	"lastIndexOf": measureIndexOf,

	// Lists.
	"lists.range":           measureRange,
	"reverse":               elements,
	"slice":                 elements,
	"sort":                  elements,
	"@sortByAssociatedKeys": elements,
	"optional.unwrap":       elements,
	"unwrapOpt":             elements,
	"flatten":               measureFlatten,
	"distinct":              measureDistinct,

	// Comparisons, each of all elements, or of all with all. Comparing with the snapshots, as changed and changedTo do, is bounded by these.
	"_==_":            measureEqual,
	"_!=_":            measureEqual,
	"@in":             measureIn,
	"in":              measureIn,
	"_in_":            measureIn,
	"sets.contains":   measureSets,
	"sets.equivalent": measureSets,
	"sets.intersects": measureSets,

	// The accumulator of transformMap and transformMapEntry. That of map, filter and transformList has + and the list that holds the element.
	"cel.@mapInsert": measureMapInsert,

	// Conversions and parsers, whose results, scratch or errors are as long as their texts.
	"bool": parsed, "bytes": parsed, "double": parsed, "duration": parsed, "int": parsed, "string": parsed, "timestamp": parsed,
	"uint": parsed,
	"cidr": parsed, "containsCIDR": parsed, "containsIP": parsed, "ip": parsed, "ip.isCanonical": parsed, "isCIDR": parsed, "isIP": parsed,
	"isSemver": parsed, "semver": parsed, "isURL": parsed, "url": parsed, "validate": parsed, "format.named": parsed,
	"getDate": parsed, "getDayOfMonth": parsed, "getDayOfWeek": parsed, "getDayOfYear": parsed, "getFullYear": parsed, "getHours": parsed,
	"getMilliseconds": parsed, "getMinutes": parsed, "getMonth": parsed, "getSeconds": parsed, // the name of a time zone
	"quantity": measureQuantity, "isQuantity": measureQuantity,
	"getEscapedPath": measureURL, "getHost": measureURL, "getHostname": measureURL, "getPort": measureURL, "getScheme": measureURL,
}

// unmeasured are the functions that allocate nothing that grows with their arguments, and take no longer than to read a text or a list
// once.
var unmeasured = strings.Fields(`
	!_ -_ _%_ _&&_ _*_ _-_ _/_ _<=_ _<_ _>=_ _>_ _?_:_ _||_ @not_strictly_false __not_strictly_false__
	_?._ _[?_] _[_] optional.none optional.of optional.ofNonZeroValue or orValue value hasValue
	size contains startsWith endsWith trim dyn type first last isSorted max min sum
	add sub sign compareTo isGreaterThan isLessThan isInteger asInteger asApproximateFloat major minor patch
	family masked prefixLength isGlobalUnicast isLinkLocalMulticast isLinkLocalUnicast isLoopback isUnspecified
	netbox.changed netbox.changedTo
	format.byte format.date format.datetime format.dns1035Label format.dns1035LabelPrefix format.dns1123Label format.dns1123LabelPrefix
	format.dns1123Subdomain format.dns1123SubdomainPrefix format.labelValue format.qualifiedName format.uri format.uuid
	allowed check error errored fieldSelector group labelSelector name namespace path reason resource serviceAccount subresource
`) // the last line needs an authorizer, of which there is none

// bounds measures the calls of programs.
type bounds struct {
	implementations map[string]*functions.Overload // by overload, or by function
}

// learn takes over the functions of an environment.
func (b *bounds) learn(env *cel.Env) error {
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

// decorate replaces the calls and constructors of a program by those that are measured.
func (b *bounds) decorate(node interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch node := node.(type) {
	case interpreter.InterpretableCall:
		if ofAccumulator(node) {
			var inner interpreter.InterpretableV2 = node
			if measure, ok := measured[node.Function()]; ok && grows(node) {
				var err error
				if inner, err = b.call(node, measure); err != nil {
					return nil, err
				}
			}
			return step{inner}, nil
		}
		if measure, ok := measured[node.Function()]; ok && grows(node) {
			return b.call(node, measure)
		}
	case interpreter.InterpretableAttribute:
		// The type is not exported.
		if fmt.Sprintf("%T", node.Attr()) == "*interpreter.conditionalAttribute" {
			return conditional{node}, nil
		}
	case interpreter.InterpretableConstructor:
		for _, value := range node.InitVals() {
			if _, constant := value.(interpreter.InterpretableConst); !constant {
				return &measuredConstructor{node}, nil
			}
		}
	}
	return node, nil
}

// step is a call of the accumulator of a loop, such as @result + [x]. CEL's cost tracker keeps what it observed on a stack, looks through
// all of it for what it does not find, and forgets the accumulator of the step before when a call used it: so it takes n² for a loop of n.
// A step is no call to it. Its own cost, 1, is not counted.
type step struct{ interpreter.InterpretableV2 }

// conditional is a ? b : c, by which filter steps. The cost tracker forgets its branches, of which it has one, and not the conditional of
// the step before. As any other attribute it is forgotten itself. It has the cost 1 instead of none.
type conditional struct {
	interpreter.InterpretableAttribute
}

// Attr returns what the conditional resolves to.
func (c conditional) Attr() interpreter.Attribute { return attribute{c.InterpretableAttribute.Attr()} }

type attribute struct{ interpreter.Attribute }

// accumulator is the name that macros give to what they accumulate, which no expression can name.
const accumulator = "@result"

func ofAccumulator(call interpreter.InterpretableCall) bool {
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

// grows tells whether a call can need more than a fixed amount, for which it has a fast way if not.
func grows(call interpreter.InterpretableCall) bool {
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

// measuredCall is a call that is measured. What is embedded has one more argument: what the evaluation used.
type measuredCall struct {
	interpreter.InterpretableCall
	args []interpreter.InterpretableV2
}

// Args returns the arguments that the expression has, from which CEL works out the cost.
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
		args[1] = variable{args[1]} // else CEL replaces the call by one that is not measured
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
	if add := run; function == "_+_" {
		run = func(args ...ref.Val) ref.Val {
			first, ok := args[0].(traits.Lister)
			second, okSecond := args[1].(traits.Lister)
			if _, accumulator := first.(traits.MutableLister); ok && okSecond && !accumulator {
				return concatenate(first, second)
			}
			return add(args...)
		}
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
				refusal = usage.take(shown(function), need)
			}
			if refusal != nil {
				return refusal
			}
			result := run(args...)
			after(usage, result)
			return result
		})}, nil
}

// shown is a function as people write it.
func shown(function string) string { return strings.Trim(function, "_@") }

// implementation returns what a call does, as CEL's interpreter finds it.
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

// constantPattern returns the pattern of a call that has it in the expression.
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

// variable hides that an argument is a constant.
type variable struct{ interpreter.InterpretableV2 }

// search is matches, find and findAll, which finds no more than may be returned.
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

// measuredConstructor is a list or map in an expression, [a, b] or {"a": b}. It is small itself, and may hold large values often.
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
	if refusal := usage.build("list or map", value); refusal != nil {
		return refusal
	}
	return value
}

// Eval is as Exec.
func (c *measuredConstructor) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

// Bytes that CEL allocates, with those of slices that grow.
const (
	runeBytes     = 4
	partBytes     = 16  // of a part of a text
	matchBytes    = 80  // of a match of a pattern
	elementBytes  = 32  // of a list
	compiledBytes = 200 // for each byte of a pattern
	parsedBytes   = 8   // for each byte of a text that is parsed
)

// textLength is the length of a text, 0 of anything else.
func textLength(value ref.Val) int {
	switch value := value.(type) {
	case types.String:
		return len(value)
	case types.Bytes:
		return len(value)
	}
	return 0
}

// listLength is the length of a list, 0 of anything else.
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

// product is a·b, or more than anything may need.
func product(a, b int) int {
	if a > 0 && b > math.MaxInt32*16/a {
		return math.MaxInt32 * 16
	}
	return a * b
}

func measureAdd(_ *usage, args []ref.Val) (needs, ref.Val) {
	switch first := args[0].(type) {
	case types.String, types.Bytes:
		return needs{result: textLength(first) + textLength(args[1])}, nil
	case traits.Lister:
		need := needs{elements: listLength(first) + listLength(args[1])}
		if _, accumulator := first.(traits.MutableLister); !accumulator {
			need.scratch, need.work = elementBytes*need.elements, need.elements
		}
		return need, nil
	}
	return needs{}, nil
}

// concatenate copies two lists. CEL makes a view, in which each access goes through all lists that it was made of.
func concatenate(first, second traits.Lister) ref.Val {
	joined := make([]ref.Val, 0, listLength(first)+listLength(second))
	for _, list := range []traits.Lister{first, second} {
		for at := list.Iterator(); at.HasNext() == types.True; {
			joined = append(joined, at.Next())
		}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, joined)
}

func measureReplace(_ *usage, args []ref.Val) (needs, ref.Val) {
	text, okText := args[0].(types.String)
	from, okFrom := args[1].(types.String)
	to, okTo := args[2].(types.String)
	if !okText || !okFrom || !okTo {
		return needs{}, nil
	}
	count := strings.Count(string(text), string(from))
	if limit := number(args, 3, -1); limit >= 0 {
		count = min(count, limit)
	}
	return needs{result: len(text) + product(count, len(to)) - count*len(from), work: len(text)}, nil
}

func measureJoin(u *usage, args []ref.Val) (needs, ref.Val) {
	list, ok := args[0].(traits.Lister)
	if !ok {
		return needs{}, nil
	}
	separator := 0
	if len(args) > 1 {
		separator = textLength(args[1])
	}
	length := 0
	for at := list.Iterator(); length-separator <= maxRendered && at.HasNext() == types.True; {
		element := at.Next()
		if isContainer(element) {
			return needs{}, types.NewErr("join: invalid input: a %s", element.Type().TypeName()) // CEL's error would show all of it
		}
		length += textLength(element) + separator
	}
	u.spend(listLength(list))
	return needs{result: max(0, length-separator), scratch: length}, nil // the builder grows
}

// measureFormat takes the upper bound of what each clause makes, %[.precision]verb.
func measureFormat(u *usage, args []ref.Val) (needs, ref.Val) {
	format, ok := args[0].(types.String)
	values, isList := args[1].(traits.Lister)
	if !ok || !isList {
		return needs{}, nil
	}
	const numeral = 700 // of the largest double in decimals, with commas
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
				length += 6 * u.weigh(value, maxRendered) // an integer has the weight valueBytes, and up to 20 digits
			} else {
				length += 2 * textLength(value) // in hexadecimal digits
			}
		}
		clause++
	}
	return needs{result: length, scratch: 3 * length}, nil
}

func measureQuote(_ *usage, args []ref.Val) (needs, ref.Val) {
	text, ok := args[0].(types.String)
	if !ok {
		return needs{}, nil
	}
	length := len(`""`) + len(text)
	for _, r := range string(text) {
		if r == utf8.RuneError {
			length += utf8.UTFMax
		} else if strings.ContainsRune("\a\b\f\n\r\t\v\\\"", r) {
			length++
		}
	}
	return needs{result: length, scratch: 4 * length, work: len(text)}, nil
}

// runes are what is made of a text to look at its characters, and the text that is made of them.
func runes(_ *usage, args []ref.Val) (needs, ref.Val) {
	length := textLength(args[0])
	return needs{scratch: (runeBytes + 1) * length, work: length}, nil
}

func measureSplit(_ *usage, args []ref.Val) (needs, ref.Val) {
	text, okText := args[0].(types.String)
	separator, okSeparator := args[1].(types.String)
	if !okText || !okSeparator {
		return needs{}, nil
	}
	parts := strings.Count(string(text), string(separator)) + 1
	if limit := number(args, 2, -1); limit >= 0 {
		parts = min(parts, limit)
	}
	return needs{elements: parts, scratch: parts * partBytes, work: len(text)}, nil
}

// measureRegex takes as many steps as characters in the text times those in the pattern, by a factor that makes the limit that of CEL's
// cost. What findAll needs for its result is accounted for when it is known.
func measureRegex(_ *usage, args []ref.Val) (needs, ref.Val) {
	const factor = 25
	text, pattern := textLength(args[0]), textLength(args[1])
	return needs{work: product(factor*(text+1), pattern), scratch: compiledBytes * pattern}, nil
}

func measureURL(_ *usage, args []ref.Val) (needs, ref.Val) {
	parsed, ok := args[0].Value().(*url.URL)
	if !ok {
		return needs{}, nil
	}
	const queryBytes = 64 // of an entry, which may have a single letter
	return needs{scratch: queryBytes*len(parsed.RawQuery) + 4*(len(parsed.Host)+len(parsed.Path))}, nil
}

// measureIndexOf takes the steps of CEL's search, which compares at each place, in the worst case; a text that is ordinary takes far less.
func measureIndexOf(u *usage, args []ref.Val) (needs, ref.Val) {
	if list, ok := args[0].(traits.Lister); ok {
		return compareAll(u, list, args[1])
	}
	text, part := textLength(args[0]), textLength(args[1])
	if part > text {
		return needs{scratch: runeBytes * (text + part)}, nil
	}
	return needs{scratch: runeBytes * (text + part), work: product(text-part+1, part)}, nil
}

func measureRange(_ *usage, args []ref.Val) (needs, ref.Val) {
	length := number(args, 0, 0)
	return needs{elements: length, scratch: product(length, elementBytes)}, nil
}

func elements(_ *usage, args []ref.Val) (needs, ref.Val) {
	return needs{scratch: 2 * elementBytes * listLength(args[0])}, nil
}

func measureFlatten(u *usage, args []ref.Val) (needs, ref.Val) {
	length := flattened(args[0], number(args, 1, 1))
	u.spend(length)
	return needs{elements: length, scratch: product(length, 2*elementBytes)}, nil
}

// flattened counts the elements of a list that is flattened, until there are too many.
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

func measureDistinct(u *usage, args []ref.Val) (needs, ref.Val) {
	length := listLength(args[0])
	weight := u.weigh(args[0], maxWeight)
	if weight > maxWeight {
		return needs{work: maxWork + 1}, nil
	}
	return needs{scratch: elementBytes * length, work: product(length, weight/valueBytes)}, nil
}

// measureEqual refuses to compare what is too large on both sides; the comparison takes as long as the smaller one.
func measureEqual(u *usage, args []ref.Val) (needs, ref.Val) {
	if !isContainer(args[0]) || !isContainer(args[1]) {
		return needs{}, nil
	}
	if u.weigh(args[0], maxWeight) > maxWeight && u.weigh(args[1], maxWeight) > maxWeight {
		return needs{}, types.NewErr("comparing: both values hold more than %d bytes", maxWeight)
	}
	return needs{}, nil
}

func measureIn(u *usage, args []ref.Val) (needs, ref.Val) {
	if list, ok := args[1].(traits.Lister); ok {
		return compareAll(u, list, args[0])
	}
	return needs{}, nil
}

// compareAll measures a comparison of each element of a list with a value.
func compareAll(u *usage, list traits.Lister, value ref.Val) (needs, ref.Val) {
	weight := valueBytes
	if isContainer(value) {
		weight = u.weigh(value, maxWeight)
	}
	return needs{work: product(listLength(list), weight/valueBytes)}, nil
}

// measureSets takes all elements of one list with all of the other.
func measureSets(u *usage, args []ref.Val) (needs, ref.Val) {
	return needs{work: 2 * product(listLength(args[1]), u.weigh(args[0], maxWeight)/valueBytes)}, nil
}

func measureMapInsert(u *usage, args []ref.Val) (needs, ref.Val) {
	need := needs{scratch: 4 * elementBytes}
	if _, accumulator := args[0].(traits.MutableMapper); !accumulator {
		return need, u.build("map", args...)
	}
	return need, u.build("map", args[1:]...)
}

func parsed(_ *usage, args []ref.Val) (needs, ref.Val) {
	length := 0
	for _, arg := range args {
		length += textLength(arg)
	}
	return needs{scratch: parsedBytes * length, work: length}, nil
}

// measureQuantity refuses exponents with which arithmetic makes numbers of millions of digits.
func measureQuantity(u *usage, args []ref.Val) (needs, ref.Val) {
	const maxExponent = 1000
	if text, ok := args[0].(types.String); ok {
		if at := strings.LastIndexAny(string(text), "eE"); at >= 0 {
			exponent, err := strconv.Atoi(string(text[at+1:]))
			if err == nil && (exponent > maxExponent || exponent < -maxExponent) {
				return needs{}, types.NewErr("quantity: the exponent %d is too large", exponent)
			}
		}
	}
	return parsed(u, args)
}
