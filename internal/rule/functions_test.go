package rule

import (
	"slices"
	"testing"
)

// TestEachFunctionIsBounded checks that somebody looked at each function of the environment: what a call of it needs is measured, or it
// needs nothing that grows. It fails when a new version of Kubernetes brings another function.
func TestEachFunctionIsBounded(t *testing.T) {
	env, err := environment()
	if err != nil {
		t.Fatal(err)
	}
	for name := range env.Functions() {
		_, isMeasured := measured[name]
		if isMeasured == slices.Contains(unmeasured, name) {
			t.Errorf("%s must be in measured or in unmeasured: can it return more than its arguments, or allocate or take more than to read them?", name)
		}
	}
	for _, name := range unmeasured {
		if env.Functions()[name] == nil {
			t.Errorf("%s is no function", name)
		}
	}
}
