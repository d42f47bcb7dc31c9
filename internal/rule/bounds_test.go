package rule_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/rule"
)

// bombs are expressions that take gigabytes or minutes in an unbounded evaluation on bombEvent, and part of the expected error, "" for
// none.
var bombs = []struct {
	reason, expression, wantErr string
}{
	{"replace of many matches by a text", `data.template.replace("{n}", data.name) != ""`, "replace: the result would be larger than 2097152 bytes"},
	{"replace of the empty string", `data.template.replace("", data.name) != ""`, "replace: the result would be larger than 2097152 bytes"},
	{"replace with a limit", `data.template.replace("{n}", data.name, 100000) != ""`, "replace: the result would be larger than 2097152 bytes"},
	{"a text that doubles", `["x"]` + strings.Repeat(".map(x, x + x)", 40) + `[0] != ""`, "+: the result would be larger than 2097152 bytes"},
	{"bytes that double", `[b"x"]` + strings.Repeat(".map(x, x + x)", 40) + `[0] != b""`, "+: the result would be larger than 2097152 bytes"},
	{"a list that doubles", `[[1]]` + strings.Repeat(".map(x, x + x)", 40) + `[0] != []`, "+: the result would be larger than 2097152 bytes"},
	{"lists that contain a list twice", `[dyn([1])]` + strings.Repeat(".map(x, dyn([x, x]))", 40) + `.all(x, x == x)`, "list or map: the value would exceed"},
	{"maps that contain a map twice", `[{"a": dyn(1)}]` + strings.Repeat(`.map(x, {"a": dyn(x), "b": dyn(x)})`, 40) + `.all(x, x == x)`, "list or map: the value would exceed"},
	{"maps of a macro", `[[{"a": dyn(1)}]]` + strings.Repeat(`.map(x, x.transformMap(i, v, [x, x]))`, 40) + `.all(x, x == x)`, ""},
	{"joined with itself", `data.names.map(x, "x").join(data.name) != ""`, "join: the result would be larger than 2097152 bytes"},
	{"joined without a separator", `[data.template, data.template, data.template, data.template, data.template, data.template].join() != ""`, "join: the result would be larger than 2097152 bytes"},
	{"join of lists", `dyn([` + strings.Repeat("data.names, ", 50) + `data.names]).join() != ""`, "join: invalid input"},
	{"many clauses", `"` + strings.Repeat("%s", 7) + `".format([` + strings.Repeat("data.template, ", 6) + `data.template]) != ""`, "format: the result would be larger than 2097152 bytes"},
	{"formatted as a list", `"%s".format([[data.template, data.template, data.template, data.template, data.template, data.template, data.template]]) != ""`, "format: the result would be larger than 2097152 bytes"},
	{"a large precision", `data.precise.format([1.5]) != ""`, "format: the result would be larger than 2097152 bytes"},
	{"a long range", `lists.range(1000000000).size() > 0`, "lists.range: the result would be larger than 2097152 bytes"},
	{"the longest range", `lists.range(9223372036854775807).size() > 0`, "lists.range: the result would be larger than 2097152 bytes"},
	{"flattened", `[` + strings.Repeat("data.names, ", 99) + `data.names].map(x, [x, x, x, x]).flatten(3).size() > 0`, ""},
	{"matches of nothing", `data.names.map(x, data.template.findAll("")).size() > 0`, "memory"},
	{"matches of a computed pattern", `data.names.map(x, data.template.findAll(data.empty)).size() > 0`, "memory"},
	{"discarded texts of the maximum size", `data.names.all(x, data.template.replace("{n}", "123456789012345") != "")`, "operation cancelled"},
	{"discarded concatenations", `data.names.all(x, data.template + data.template != "")`, "operation cancelled"},
	{"discarded replacements of small texts", `data.names.all(x, "x".replace("x", data.template) != "")`, "memory"},
	{"characters of a long text", `data.names.all(x, data.names.all(y, data.template.charAt(1) != ""))`, "memory"},
	{"upper case of a long text", `data.names.all(x, data.template.upperAscii() != "")`, "operation cancelled"},
	{"quoted", `data.names.all(x, strings.quote(data.template) != "")`, "operation cancelled"},
	{"invalid numbers, with ignored errors", `data.names.exists(x, int(data.template) == 1)`, "memory"},
	{"invalid addresses", `data.names.exists(x, isIP(data.template) || isCIDR(data.template))`, "memory"},
	{"discarded lists", `data.names.all(x, data.names.all(y, [string(x), ` + strings.Repeat("'1', ", 900) + `'1'].size() > 0))`, ""},
	{"reversed", `data.names.all(x, data.names.reverse().sort().size() > 0)`, ""},
	{"copies of the event", `data.names.map(x, event).map(x, [x, x]).size() > 0`, "memory"},
	{"a number of a billion digits", `quantity(data.huge).add(quantity("1")).isGreaterThan(quantity("2"))`, "quantity: the exponent"},
	{"a search that mismatches late", `(data.as + data.as).indexOf(data.as.replace("a", "aa", 100000) + "b") == 1`, "the call would take too long"},
	{"a pattern as long as the text", `data.as.matches(data.as)`, ""},
	{"a long constant pattern", `data.as.matches("` + strings.Repeat("(a|b)*", 500) + `c")`, ""},
	{"all pairs", `sets.contains(lists.range(30000), lists.range(30000))`, "operation cancelled"},
	{"distinct", `lists.range(40000).distinct().size() > 0`, "the call would take too long"},
	{"an invalid index", `data.names[dyn(data.names.map(x, data.names))] == 1`, ""},
	{"bound texts that double", `cel.bind(a, data.template + data.template, cel.bind(b, a + a, cel.bind(c, b + b, c + c != "")))`, "+: the result would be larger than 2097152 bytes"},
	{"extracted from a long text", `data.names.all(x, regex.extractAll(data.template, "(n?)").size() > 0)`, "memory"},
	{"extracted by a long pattern", `regex.extract(data.as, "` + strings.Repeat("(?:a|b)*", 400) + `(c)").hasValue()`, ""},
	{"replaced by a long text", `regex.replace(data.template, "n", data.name) != ""`, "regex.replace: the result would be larger than 2097152 bytes"},
	{"replaced by groups", `regex.replace(data.as, "(.*)", "\\1\\1\\1\\1\\1\\1\\1\\1\\1\\1\\1\\1") != ""`, "regex.replace: the result would be larger than 2097152 bytes"},
	{"encoded", `data.names.all(x, base64.encode(bytes(data.template)) != "")`, "operation cancelled"},
	{"decoded", `data.names.all(x, base64.decode(data.as) != b"")`, "operation cancelled"},
	{"nested JSON", `data.names.all(x, json(data.as.replace("a", "[", 9000) .replace("a", "") + data.as.replace("a", "]", 9000).replace("a", "")) != null)`, "operation cancelled"},
	{"a long JSON list", `data.names.all(x, json("[" + data.as.replace("a", "0,") + "0]").size() > 0)`, "memory"},
	{"a query", `data.names.all(x, url("https://example.com/?" + data.query).getQuery().size() > 0)`, "memory"},
}

func bombEvent(t testing.TB) *v1alpha1.NetBoxEvent {
	t.Helper()
	names := make([]string, 1000)
	for i := range names {
		names[i] = strings.Repeat("n", 20)
	}
	data, err := json.Marshal(map[string]any{
		"template": strings.Repeat("{n}", 120_000), "name": strings.Repeat("x", 50_000), "names": names, "empty": "",
		"as": strings.Repeat("a", 200_000), "precise": "%.999999999f", "huge": "1e2000000000", "query": strings.Repeat("a=b&", 9_000),
	})
	if err != nil {
		t.Fatal(err)
	}
	return eventWith(t, string(data))
}

// TestBombs checks the memory and time of hostile expressions, and of expressions on hostile data.
func TestBombs(t *testing.T) {
	if raceDetector {
		t.Skip("measures memory and time, which the race detector multiplies")
	}
	event := bombEvent(t)
	const maxBytes, maxDuration = 256 << 20, 5 * time.Second
	for _, test := range bombs {
		t.Run(test.reason, func(t *testing.T) {
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: test.expression}}})
			in := rule.NewInput(event, now)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			_, err := compiled.Match(t.Context(), event, in)
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			bytes := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d MiB, %v: %v", bytes>>20, took, err)
			if bytes > maxBytes || took > maxDuration {
				t.Errorf("took %d bytes and %v", bytes, took)
			}
			if test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), test.wantErr)) {
				t.Errorf("error is %v, want one with %q", err, test.wantErr)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

// TestUnaffected checks that the bounds do not change the values of ordinary expressions.
func TestUnaffected(t *testing.T) {
	event := bombEvent(t)
	for _, expression := range []string{
		`"a.b.a".replace("a", "xyz") == "xyz.b.xyz" && "aaa".replace("a", "b", 2) == "bba" && "aaa".replace("a", "b", 0) == "aaa" && "ab".replace("", "-") == "-a-b-"`,
		`["a", "b"].join() == "ab" && ["a", "b"].join(", ") == "a, b" && [].join(",") == ""`,
		`"%s has %d of %.2f%%, %x".format(["a", 1, 1.5, "z"]) == "a has 1 of 1.50%, 7a" && "%s".format([[1, 2]]) == "[1, 2]"`,
		`"a" + "b" == "ab" && b"a" + b"b" == b"ab" && [1] + [2] == [1, 2] && 1 + 2 == 3 && dyn(1) + dyn(2) == 3 && dyn("a") + dyn("b") == "ab"`,
		`now + duration("1h") > now && 1.5 + 1.5 == 3.0 && 1u + 1u == 2u && duration("1h") + duration("1h") == duration("2h")`,
		`"a,b,c".split(",") == ["a", "b", "c"] && "a,b,c".split(",", 2) == ["a", "b,c"] && "abc".split("") == ["a", "b", "c"] && "a".split(",", 0) == []`,
		`"a1b22".findAll("[0-9]+") == ["1", "22"] && "a1b22".findAll("[0-9]+", 1) == ["1"] && "a1b22".findAll("[0-9]+", 0) == [] && "a1".find("[0-9]") == "1" && "a1".find("[b]") == ""`,
		`"a1".matches("[0-9]") && !"a1".matches("^[0-9]") && matches("a1", "1") && "a1".matches("[" + "0-9]") && ["1"].all(x, "a1".find(x) == "1" && "a1".findAll(x) == ["1"])`,
		`"héé".charAt(1) == "é" && "aB".lowerAscii() == "ab" && "aB".upperAscii() == "AB" && "abc".substring(1) == "bc" && "abc".indexOf("c") == 2 && "abc".lastIndexOf("a") == 0`,
		`strings.quote("a\"b") == "\"a\\\"b\"" && [1, 2].indexOf(2) == 1 && [1, 2].lastIndexOf(3) == -1 && [[1], [2]].indexOf([2]) == 1`,
		`lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1] && [3, 1].sort() == [1, 3] && [3, 1].sortBy(x, -x) == [3, 1] && [1, 2, 3].slice(1, 2) == [2]`,
		`[[1], [2, 3]].flatten() == [1, 2, 3] && [[[1]], [[2]]].flatten(2) == [1, 2] && [1, 1, 2].distinct() == [1, 2] && lists.range(100000).size() == 100000`,
		`{"a": data.names} == {"a": data.names} && data.names != [1] && data == data && [data.names][0].size() == 1000 && data.name in [data.name] && "a" in data.names.map(x, "a") && [1] in [[1]]`,
		`"name" in data && !("x" in data) && sets.contains([1, 2], [1]) && sets.equivalent([1], [1, 1]) && !sets.intersects([1], [2])`,
		`[1, 2].transformMap(i, v, v * 2) == {0: 2, 1: 4} && {"a": 1}.transformMapEntry(k, v, {v: k}) == {1: "a"} && [1, 2].transformList(i, v, i + v) == [1, 3]`,
		`int("1") == 1 && string(1) == "1" && string(b"a") == "a" && bytes("a") == b"a" && double("1.5") == 1.5 && uint("1") == 1u && bool("true") && timestamp("2027-07-28T09:30:00Z") == now`,
		`quantity("1.5Gi").add(quantity("1")).isGreaterThan(quantity("1Gi")) && !isQuantity("x") && isQuantity("1e3") && quantity("1e3") == quantity("1000")`,
		`url("https://a.example.com:1/b?c=d").getQuery() == {"c": ["d"]} && url("https://a.example.com:1/b").getHost() == "a.example.com:1" && !isURL("x y")`,
		`optional.of(1) == optional.of(1) && data.?nothing == optional.none() && data.?name.orValue("") == data.name && optional.unwrap([optional.of(1)]) == [1] && [?optional.of("a"), ?optional.none()].size() == 1`,
		`data.names.filter(x, x.startsWith("n")).size() == 1000 && data.names.map(x, {"name": dyn(x), "all": dyn(data.names.size())}).size() == 1000 && data.names.exists(x, x == data.names[0])`,
		`(data.as + data.as).size() == 400000 && data.template.replace("{n}", "123456").size() == 720000 && data.template.split("{").size() == 120001`,
		`"%s".format([data.names]).size() > 20000 && data.names.join(", ").size() == 21998 && data.template.indexOf("x") == -1 && data.template.matches("n..n")`,
		`ip("10.0.0.1").family() == 4 && cidr("10.0.0.0/8").containsIP("10.1.1.1") && format.dns1123Label().validate("a") == optional.none() && semver("1.2.3").minor() == 2`,
		`lists.range(6000).map(x, x).filter(x, x >= 0).size() == 6000 && lists.range(6000).transformMap(i, v, v).size() == 6000`,
		`cel.bind(a, data.name.size(), cel.bind(b, a + 1, b == 50001)) && base64.encode(bytes("hello")) == "aGVsbG8=" && string(base64.decode("aGVsbG8=")) == "hello"`,
		`regex.extract("leaf-12.example", "leaf-([0-9]+)").orValue("") == "12" && !regex.extract("x", "(y)").hasValue() && regex.extractAll("a1b22", "[a-z]([0-9]+)") == ["1", "22"]`,
		`regex.replace("a1b22", "([a-z])([0-9]+)", "\\2\\1") == "1a22b" && regex.replace("aaa", "a", "b", 2) == "bba"`,
		`json("{\"a\": [1, 2.5, null, \"x\"]}") == {"a": [dyn(1), dyn(2.5), dyn(null), dyn("x")]} && json("9007199254740993") == 9007199254740993`,
		`data.names.all(x, cel.bind(y, x + x, y.size() == 40))`,
		`now.getFullYear() == 2027 && now.getHours("Europe/Berlin") == 11 && duration("2h").getMinutes() == 120`,
	} {
		compiled, err := rule.Compile(&v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: expression}}})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); err != nil || !matched {
			t.Errorf("%s is %v: %v", expression, matched, err)
		}
	}
}

// TestMatchInTime checks that the context bounds the time of matching, at any point of the evaluation.
func TestMatchInTime(t *testing.T) {
	event := bombEvent(t)
	for _, test := range []struct{ reason, expression string }{
		{"nested loops", `data.names.all(a, data.names.all(b, data.names.all(c, a == b && b == c)))`},
		{"a loop of slow steps", `data.names.all(a, data.as.contains("b") || data.template.matches("n[^}]{1,50}x") || true)`},
		{"comparisons of large values", `data.names.all(a, data.names.map(b, data.names) == data.names.map(b, data.names))`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: test.expression}}})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			begin := time.Now()
			_, err := compiled.Match(ctx, event, rule.NewInput(event, now))
			if took := time.Since(begin); took > time.Second {
				t.Errorf("took %v", took)
			}
			if err == nil || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "operation cancelled") {
				t.Errorf("error is %v", err)
			}
			t.Log(time.Since(begin), err)
			if _, err := compiled.Match(ctx, event, rule.NewInput(event, now)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error is %v after the deadline", err)
			}
		})
	}
	t.Run("no loop, after the deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: `data.name == ""`}}})
		if _, err := compiled.Match(ctx, event, rule.NewInput(event, now)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}

// TestLoopsAreLinear checks that the time of a loop is linear in its length: bodies can have lists of many elements.
func TestLoopsAreLinear(t *testing.T) {
	event := bombEvent(t)
	for _, expression := range []string{
		`lists.range(40000).all(x, x >= 0)`, `!lists.range(40000).exists(x, x < 0)`, `lists.range(40000).exists_one(x, x == 1)`,
		`lists.range(40000).map(x, x).size() == 40000`, `lists.range(40000).map(x, x > 2, x).size() > 0`, `lists.range(40000).filter(x, x > 3).size() > 0`,
		`lists.range(40000).all(i, v, i == v)`, `lists.range(40000).transformList(i, v, v).size() > 0`, `lists.range(40000).transformMap(i, v, v).size() > 0`,
	} {
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: expression}}})
		begin := time.Now()
		matched, err := compiled.Match(t.Context(), event, rule.NewInput(event, now))
		if took := time.Since(begin); err != nil || !matched || took > 3*time.Second { // 0.1 s; without step and conditional, more than 5 s
			t.Errorf("%s is %v after %v: %v", expression, matched, took, err)
		}
	}
	for _, expression := range []string{ // the cost of the loop body still counts
		`data.names.all(a, data.names.all(b, a == b))`, `data.names.map(a, data.names.map(b, b)).size() > 0`, `data.names.filter(a, data.names.filter(b, b != "").size() > 0).size() > 0`,
	} {
		compiled := compile(t, &v1alpha1.NetBoxEventRuleSpec{Match: v1alpha1.Match{Filter: v1alpha1.Filter{CEL: expression}}})
		if _, err := compiled.Match(t.Context(), event, rule.NewInput(event, now)); err == nil || !strings.Contains(err.Error(), "operation cancelled") {
			t.Errorf("%s: error is %v", expression, err)
		}
	}
}
