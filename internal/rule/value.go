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

// maxRendered bounds, in bytes, what expressions may put into one text or object: it is more than the API server takes. Expressions of
// little cost, such as [data, data, data], can have values that do not fit into memory. Each value counts valueBytes besides its text: so
// the data of an event of 1 MB fits, whatever it is made of.
const maxRendered, valueBytes = 2 << 20, 4

// budget is what is left of maxRendered.
type budget int

func (b *budget) take(bytes int) error {
	*b -= budget(bytes)
	if *b < 0 {
		return fmt.Errorf("is larger than %d bytes", maxRendered)
	}
	return nil
}

// native turns a value of CEL into one of JSON: nil, bool, int64, float64, string, []any or map[string]any. Times, durations, quantities,
// addresses and the like become text.
func native(value ref.Val, left *budget) (any, error) {
	if err := left.take(valueBytes); err != nil {
		return nil, err
	}
	str := func(text string) (any, error) { return text, left.take(len(text)) }
	switch value := value.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(value), nil
	case types.Int:
		return int64(value), nil
	case types.Uint:
		if value > math.MaxInt64 {
			return nil, fmt.Errorf("is %d, which is larger than Kubernetes can keep", uint64(value))
		}
		return int64(value), nil
	case types.Double:
		if math.IsNaN(float64(value)) || math.IsInf(float64(value), 0) {
			return nil, fmt.Errorf("is %v, which is no number of JSON", float64(value))
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
		return native(value.GetValue(), left)
	case traits.Lister:
		list := []any{}
		for at := value.Iterator(); at.HasNext() == types.True; {
			element, err := native(at.Next(), left)
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
				return nil, fmt.Errorf("has the key %v, which is no text", key.Value())
			}
			if err := left.take(len(name)); err != nil {
				return nil, err
			}
			element, err := native(value.Get(key), left)
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
	return nil, fmt.Errorf("is a %s, which is no value of JSON", value.Type().TypeName())
}

var errNull = errors.New("is null; say what to write then, as in ${data.tenant == null ? \"none\" : data.tenant.slug}")

// text writes a value as part of a text: 14 and 14.0 are 14, lists and maps are JSON.
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
		return strconv.FormatFloat(value+0, 'f', -1, 64), nil // + 0 makes 0 of -0
	default:
		var encoded strings.Builder
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		err := encoder.Encode(value)
		return strings.TrimSuffix(encoded.String(), "\n"), err
	}
}
