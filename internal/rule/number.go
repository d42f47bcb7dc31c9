package rule

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// JSON has one type of numbers, and CEL several: a field that is 12.0 for one device and 12.5 for another is an int for the first, as the
// API server stores it, and a double for the second. So arithmetic on an int and a double is that on doubles. On two ints it is exact.

// arithmetic are the operators by the part of their overloads' names.
var arithmetic = map[string]string{
	operators.Add: "add", operators.Subtract: "subtract", operators.Multiply: "multiply", operators.Divide: "divide",
}

// mixedArithmetic declares the operators on an int and a double. The operators are implemented by the values, so mixed converts these.
func mixedArithmetic() []cel.EnvOption {
	var options []cel.EnvOption
	for operator, name := range arithmetic {
		options = append(options, cel.Function(operator,
			cel.Overload(name+"_int64_double", []*cel.Type{cel.IntType, cel.DoubleType}, cel.DoubleType),
			cel.Overload(name+"_double_int64", []*cel.Type{cel.DoubleType, cel.IntType}, cel.DoubleType)))
	}
	return options
}

// isArithmetic reports whether a call may be arithmetic on an int and a double.
func isArithmetic(call interpreter.InterpretableCall) bool {
	switch call.OverloadID() {
	case overloads.AddInt64, overloads.SubtractInt64, overloads.MultiplyInt64, overloads.DivideInt64,
		overloads.AddDouble, overloads.SubtractDouble, overloads.MultiplyDouble, overloads.DivideDouble:
		return false
	}
	return arithmetic[call.Function()] != ""
}

// mixed returns an operator that converts an int to a double if the other operand is one.
func mixed(operator functions.FunctionOp) functions.FunctionOp {
	return func(args ...ref.Val) ref.Val {
		if len(args) == 2 {
			switch first := args[0].(type) {
			case types.Int:
				if _, ok := args[1].(types.Double); ok {
					return operator(types.Double(first), args[1])
				}
			case types.Double:
				if second, ok := args[1].(types.Int); ok {
					return operator(first, types.Double(second))
				}
			}
		}
		return operator(args...)
	}
}

// listed returns a function on a list of numbers that converts ints to doubles if others are doubles.
func listed(function string, call functions.FunctionOp) functions.FunctionOp {
	return func(args ...ref.Val) ref.Val {
		last := len(args) - 1 // of sortBy, the keys
		numbers, ok := doubles(args[last])
		if !ok {
			return call(args...)
		}
		if function == "sum" { // CEL begins with the int 0, for a list of unknown type
			sum := types.Double(0)
			for _, number := range numbers {
				sum += number.(types.Double)
			}
			return sum
		}
		return call(append(args[:last:last], types.NewRefValList(types.DefaultTypeAdapter, numbers))...)
	}
}

// doubles returns the elements of a list of ints and doubles as doubles. It returns false for other lists, and if all are ints.
func doubles(value ref.Val) ([]ref.Val, bool) {
	list, ok := value.(traits.Lister)
	if !ok {
		return nil, false
	}
	anyDouble := false
	for at := list.Iterator(); at.HasNext() == types.True; {
		switch at.Next().(type) {
		case types.Double:
			anyDouble = true
		case types.Int:
		default:
			return nil, false
		}
	}
	if !anyDouble {
		return nil, false
	}
	converted := make([]ref.Val, 0, listLength(list))
	for at := list.Iterator(); at.HasNext() == types.True; {
		switch number := at.Next().(type) {
		case types.Int:
			converted = append(converted, types.Double(number))
		default:
			converted = append(converted, number)
		}
	}
	return converted, true
}
