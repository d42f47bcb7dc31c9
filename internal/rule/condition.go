package rule

import (
	"context"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// Condition is a compiled expression whose value is true or false. It is safe for concurrent use.
type Condition struct {
	expression *expression
}

func (c *compiler) condition(path, text string) *Condition {
	return &Condition{c.expression(path, text, cel.BoolType)}
}

// Holds returns the value of the expression. It fails if the expression does, or if its value is of another type.
func (c *Condition) Holds(ctx context.Context, in *Input) (bool, error) {
	value, err := c.expression.evaluate(ctx, in)
	if err != nil {
		return false, err
	}
	result, ok := value.(types.Bool)
	if !ok {
		return false, fmt.Errorf("returned a %s, not true or false, in %.60q", value.Type().TypeName(), c.expression.text)
	}
	return bool(result), nil
}
