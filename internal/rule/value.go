package rule

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// maxRendered bounds, in bytes, the values of the expressions of one text or object: it is more than the API server accepts. Expressions of
// low cost, such as [data, data, data], can have values that do not fit into memory. Each value counts valueBytes in addition to its text,
// so that the data of any event of 1 MB fits.
const maxRendered, valueBytes = 2 << 20, 4

// budget is the unused part of maxRendered.
type budget int

func (b *budget) take(bytes int) error {
	*b -= budget(bytes)
	if *b < 0 {
		return fmt.Errorf("is larger than %d bytes", maxRendered)
	}
	return nil
}

// native converts a CEL value to a JSON value: nil, bool, int64, float64, string, []any or map[string]any. Times, durations, quantities,
// addresses and the like become strings.
func native(value ref.Val, remaining *budget) (any, error) {
	if err := remaining.take(valueBytes); err != nil {
		return nil, err
	}
	str := func(text string) (any, error) { return text, remaining.take(len(text)) }
	switch value := value.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(value), nil
	case types.Int:
		return int64(value), nil
	case types.Uint:
		if value > math.MaxInt64 {
			return nil, fmt.Errorf("is %d, which exceeds the largest integer of Kubernetes", uint64(value))
		}
		return int64(value), nil
	case types.Double:
		if math.IsNaN(float64(value)) || math.IsInf(float64(value), 0) {
			return nil, fmt.Errorf("is %v, which is not a JSON number", float64(value))
		}
		return float64(value), nil
	case types.String:
		return str(string(value))
	case types.Bytes:
		return str(base64.StdEncoding.EncodeToString(value))
	case types.Timestamp:
		return str(value.UTC().Format(time.RFC3339Nano))
	case *types.Optional:
		if !value.HasValue() {
			return nil, nil
		}
		return native(value.GetValue(), remaining)
	case deferred:
		return native(value.resolve(), remaining)
	case traits.Lister:
		list := []any{}
		for at := value.Iterator(); at.HasNext() == types.True; {
			element, err := native(at.Next(), remaining)
			if err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		return list, nil
	case traits.Mapper:
		object := map[string]any{}
		for at := value.Iterator(); at.HasNext() == types.True; {
			key := at.Next()
			name, ok := key.(types.String)
			if !ok {
				return nil, fmt.Errorf("has the key %v, which is not a string", key.Value())
			}
			if err := remaining.take(len(name)); err != nil {
				return nil, err
			}
			element, err := native(value.Get(key), remaining)
			if err != nil {
				return nil, err
			}
			object[string(name)] = element
		}
		return object, nil
	}
	if text, ok := value.Value().(fmt.Stringer); ok { // a duration, a quantity, an address, …
		return str(text.String())
	}
	return nil, fmt.Errorf("is a %s, which has no JSON value", value.Type().TypeName())
}

var errNull = errors.New("is null; provide a default, as in ${data.tenant == null ? \"none\" : data.tenant.slug}")

// text formats a value as part of a string: 14 and 14.0 as 14, lists and maps as JSON.
func text(value any) (string, error) {
	switch value := value.(type) {
	case nil:
		return "", errNull
	case string:
		return value, nil
	case bool:
		return strconv.FormatBool(value), nil
	case int64:
		return strconv.FormatInt(value, 10), nil
	case float64:
		return strconv.FormatFloat(value+0, 'f', -1, 64), nil // + 0 turns -0 into 0
	default:
		var encoded strings.Builder
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		err := encoder.Encode(value)
		return strings.TrimSuffix(encoded.String(), "\n"), err
	}
}
