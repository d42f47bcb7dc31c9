package rule_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// TestNumbers checks that expressions work whether a number is whole, which the API server stores as an integer, or not.
func TestNumbers(t *testing.T) {
	for position, expressions := range map[string][]string{
		"12":   {`${data.position + 0.5} is 12.5`, `${data.position * 2.0} is 24`, `${data.position} is 12`, `${data.positions.sum()} is 24.5`},
		"12.0": {`${data.position + 0.5} is 12.5`, `${data.position * 2.0} is 24`, `${data.position} is 12`, `${data.positions.sum()} is 24.5`},
		"12.5": {`${data.position + 0.5} is 13`, `${data.position * 2.0} is 25`, `${data.position} is 12.5`, `${data.positions.sum()} is 25`},
	} {
		event := eventWith(t, fmt.Sprintf(`{"id": 9007199254740993, "big": 9223372036854775807, "position": %s, "positions": [%s, 12.5], "names": ["b", "a"]}`,
			position, position))
		for _, expression := range []string{
			`data.position * 2.0 > 2.0`, `data.position * 2 > 2`, `2 * data.position > 2.0`, `data.position + 1 - 1.5 < 12.5`, `data.position * 2 + 0.5 > 24.0`,
			`data.position / 2.0 >= 6.0`, `100 / data.position > 7`, `1.0 - data.position < 0`, `-data.position < 0.0`, `data.position > 11`, `data.position < 13.0`,
			`data.position - data.position == 0`, `data.position >= data.positions[0] && data.position + data.positions[1] >= 24.5`,
			`data.positions.sort()[0] == data.position && data.positions.sortBy(p, -p)[0] == 12.5 && data.positions.max() == 12.5`,
			`data.names.sort() == ["a", "b"] && [2, 1].sort() == [1, 2] && [1, 2].sum() == 3 && [1.5, 2.5].sum() == 4.0 && data.positions.map(p, p * 2).sum() > 48`,
			`int(data.position) % 2 == 0 && "%.1f".format([double(data.position)]).startsWith("12.")`,
			`data.positions.exists(p, p + 0.5 > 12.9) && data.position in data.positions`,
			`data.id + 1 == 9007199254740994 && data.id * 1 == 9007199254740993 && data.id - 1 == 9007199254740992 && data.big - 1 == 9223372036854775806`,
			`data.big / 1 == data.big && data.big > 9223372036854775806 && now + duration("1h") > now && data.names[0] + "c" == "bc" && 1 + 2 == 3`,
		} {
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: expression}}})
			if matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); !matched || err != nil {
				t.Errorf("position %s: %s is %t, error: %v", position, expression, matched, err)
			}
		}
		for _, expression := range append(expressions, `${data.id} is 9007199254740993`, `${data.id * 2} is 18014398509481986`, `${data.big} is 9223372036854775807`) {
			template, want, _ := strings.Cut(expression, " is ")
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Actions: []v1alpha1.Action{{Name: "a", Log: &v1alpha1.LogAction{Message: template}}}})
			if got, err := compiled.Actions[0].Message.Text(t.Context(), rule.NewInput(event, now)); got != want || err != nil {
				t.Errorf("position %s: %s is %q, error: %v", position, expression, got, err)
			}
		}
	}
}
