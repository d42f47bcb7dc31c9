package netbox

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netboxapi"
)

// TestNamesAndMarks checks that names and descriptions fit into NetBox, and that the descriptions say whose an object is.
func TestNamesAndMarks(t *testing.T) {
	const uid, otherUID = types.UID("1b4e28ba-2fa1-11d2-883f-0016d3cca427"), types.UID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	names := map[string]types.NamespacedName{}
	for _, source := range []types.NamespacedName{
		{Namespace: "netbox", Name: "netbox"},
		{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("a.", 126) + "b"},
		{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("a.", 126) + "c"},
	} {
		name, owned, retained := objectName(source), ownedMark(source, uid), retainedMark(source)
		if len(name) > maxNameLength || len(owned) > maxDescriptionLength || len(retained) > maxDescriptionLength {
			t.Errorf("too long for NetBox:\n%s\n%s\n%s", name, owned, retained)
		}
		if other, ok := names[name]; ok || !strings.HasPrefix(name, namePrefix) {
			t.Errorf("%s and %s have the name %s", other, source, name)
		}
		names[name] = source
		for description, want := range map[string]struct{ isOwned, isAdopted bool }{
			owned:                         {isOwned: true},
			ownedMark(source, otherUID):   {},
			retained:                      {isAdopted: true},
			"":                            {},
			"sends changes to Kubernetes": {},
			owned + " no more":            {},
		} {
			object := netboxObject{kind: "webhook", id: 14, name: name, description: description}
			if object.isOwned(uid, 0) != want.isOwned || (object.claim(uid, 0) == nil) != (want.isOwned || want.isAdopted) {
				t.Errorf("description %q: owned %t, claim %v", description, object.isOwned(uid, 0), object.claim(uid, 0))
			}
			isMarked := strings.HasSuffix(description, "netbox-event-operator") || description == retained
			if object.isOwned(uid, 14) != (want.isOwned || !isMarked) {
				t.Errorf("description %q, with the id of the status: owned %t", description, object.isOwned(uid, 14))
			}
		}
	}
	if name := objectName(types.NamespacedName{Namespace: "netbox", Name: "netbox"}); name != "netbox-event-operator/netbox/netbox" {
		t.Errorf("name %s", name)
	}
}

func TestSigningKey(t *testing.T) {
	long := strings.Repeat("é", maxSecretLength)
	for name, test := range map[string]struct {
		entries map[string]string
		key     string
		want    string // name=value, or a part of the error
	}{
		"the only entry":           {map[string]string{"secret": "x\n"}, "", "secret=x"},
		"the last of several":      {map[string]string{"secret": "x", "secret-2": "y", "a": "z", "t": "\n"}, "", "secret-2=y"},
		"the named one":            {map[string]string{"secret": "x", "secret-2": "y"}, "secret", "secret=x"},
		"none":                     {map[string]string{}, "", "no non-empty entry"},
		"the longest":              {map[string]string{"secret": long}, "", "secret=" + long},
		"too long":                 {map[string]string{"secret": long + "é"}, "", "it has 256 characters"},
		"white space before":       {map[string]string{"secret": " x"}, "", "white space"},
		"a separator after":        {map[string]string{"secret": "x\x1f"}, "", "white space"},
		"white space in between":   {map[string]string{"secret": "x y"}, "", "secret=x y"},
		"bytes":                    {map[string]string{"secret": "\xff\xfe"}, "", "not text"},
		"a zero":                   {map[string]string{"secret": "a\x00b"}, "", "not text"},
		"unusable, though another": {map[string]string{"a": "x", "b": " y"}, "", "entry b"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := &corev1.Secret{Data: map[string][]byte{}}
			for entry, value := range test.entries {
				secret.Data[entry] = []byte(value)
			}
			key, err := signingKey(secret, &v1alpha1.SecretKeysReference{Name: "webhook", Key: test.key})
			got := key.Name + "=" + string(key.Value)
			if err != nil {
				got = err.Error()
			}
			if got != test.want && (err == nil || !strings.Contains(got, test.want)) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// FuzzSigningKey checks that a key that is taken is the same after NetBox has stripped it.
func FuzzSigningKey(f *testing.F) {
	for _, seed := range []string{"x", " x", "x\u00a0", "\x1cx", "\xff", "\u2028x", "x\u0085"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		key, err := signingKey(&corev1.Secret{Data: map[string][]byte{"secret": value}}, &v1alpha1.SecretKeysReference{Name: "webhook"})
		if err != nil {
			return
		}
		text := string(key.Value)
		if !utf8.ValidString(text) || utf8.RuneCountInString(text) > maxSecretLength || strings.TrimSpace(text) != text {
			t.Errorf("the key %q is taken as %q", value, text)
		}
	})
}

func TestSelectTypes(t *testing.T) {
	known := []netboxapi.ObjectType{
		{Name: "auth.permission", HasEventRules: netboxapi.SupportNo},
		{Name: "dcim.device", HasEventRules: netboxapi.SupportYes},
		{Name: "dcim.site", HasEventRules: netboxapi.SupportYes},
		{Name: "extras.tag", HasEventRules: netboxapi.SupportYes},
		{Name: "extras.webhook", HasEventRules: netboxapi.SupportYes},
		{Name: "old.unknown"},
		{Name: "old.refused"},
	}
	for name, test := range map[string]struct {
		patterns []string
		redacted bool
		want     selection
	}{
		"all but the secrets of webhooks": {
			[]string{"*"},
			false,
			selection{types: []string{"dcim.device", "dcim.site", "extras.tag", "old.unknown"}, isWebhookLeftOut: true},
		},
		"all": {
			[]string{"*"}, true, selection{types: []string{"dcim.device", "dcim.site", "extras.tag", "extras.webhook", "old.unknown"}},
		},
		"named": {
			[]string{"extras.webhook", "extras.*"}, false, selection{types: []string{"extras.tag", "extras.webhook"}},
		},
		"some are unknown": {
			[]string{"dcim.*", "dcim.devices", "auth.permission", "old.refused", "nosuch.*", "dcim.site"},
			false,
			selection{types: []string{"dcim.device", "dcim.site"}, unknown: []string{"dcim.devices", "auth.permission", "old.refused", "nosuch.*"}},
		},
		"only an application of webhooks": {
			[]string{"extras.webhook*"}, false, selection{isWebhookLeftOut: true},
		},
		"none": {nil, false, selection{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := selectTypes(known, map[string]bool{"old.refused": true}, test.patterns, test.redacted)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(selection{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRulePatterns(t *testing.T) {
	rule := func(change func(*v1alpha1.NetBoxEventRuleSpec)) v1alpha1.NetBoxEventRule {
		var rule v1alpha1.NetBoxEventRule
		rule.Spec.Match.ObjectTypes = []string{"DCIM.Site", "ipam.*"}
		change(&rule.Spec)
		return rule
	}
	ours := rule(func(*v1alpha1.NetBoxEventRuleSpec) {})
	named := rule(func(s *v1alpha1.NetBoxEventRuleSpec) {
		s.Match.Sources, s.Match.ObjectTypes = []string{"other", "NetBox"}, []string{"dcim.rack"}
	})
	others := rule(func(s *v1alpha1.NetBoxEventRuleSpec) { s.Match.Sources, s.Match.ObjectTypes = []string{"other"}, nil })
	suspended := rule(func(s *v1alpha1.NetBoxEventRuleSpec) { s.Suspend, s.Match.ObjectTypes = true, nil })
	all := rule(func(s *v1alpha1.NetBoxEventRuleSpec) { s.Match.ObjectTypes = nil })
	for name, test := range map[string]struct {
		rules []v1alpha1.NetBoxEventRule
		want  []string
	}{
		"none":                     {nil, nil},
		"of other sources":         {[]v1alpha1.NetBoxEventRule{others, suspended}, nil},
		"the union":                {[]v1alpha1.NetBoxEventRule{others, ours, named, ours}, []string{"dcim.rack", "dcim.site", "ipam.*"}},
		"one that matches any one": {[]v1alpha1.NetBoxEventRule{ours, all}, []string{"*"}},
	} {
		if diff := cmp.Diff(test.want, rulePatterns(test.rules, "netbox")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRefusedType(t *testing.T) {
	const text = `POST /api/extras/event-rules/: NetBox refused the request (400): "object_types: Invalid content type: auth.permission"`
	for want, err := range map[string]error{
		"auth.permission": &netboxapi.Error{Kind: netboxapi.KindInvalid, Message: text},
		"":                errors.New(text),
	} {
		if got := refusedType(err); got != want {
			t.Errorf("refused type %q of %#v, want %q", got, err, want)
		}
	}
}
