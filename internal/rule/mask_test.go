package rule_test

import (
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

func TestMask(t *testing.T) {
	for template, want := range map[string]string{
		"":                               "",
		"plain":                          "*",
		"a ${event.objectID} b":          "*${event.objectID}*",
		"${data.name}${data.slug}":       "${data.name}${data.slug}",
		`${data["pass}word"]} x`:         `${data["*"]}*`,
		`${changedTo('status', "a")}`:    `${changedTo("*", "*")}`,
		`${a + """b"c""" + r'd\'}`:       `${a + "*" + r"*"}`,
		"${a // secret }\n + b} c":       "${a // *\n + b}*",
		"$${escaped} ${a}":               "*${a}",
		"${unclosed secret":              "*",
		`Bearer ${secrets.token} "${"x`:  "*${secrets.token}*",
		"x ${ {\"k\": [data.a]}.k[0] } ": "*${ {\"*\": [data.a]}.k[0] }*",
	} {
		if got := rule.Mask(template, func(string) string { return "*" }); got != want {
			t.Errorf("%s: got %s, want %s", template, got, want)
		}
	}
	if got := rule.MaskExpression(`a == "unclosed`, func(string) string { return "*" }); got != `a == "*"` {
		t.Errorf("got %s", got)
	}
}
