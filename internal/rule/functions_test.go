package rule

import (
	"slices"
	"testing"
)

// TestEachFunctionIsBounded checks that each function of the environment was reviewed: its calls are measured, or need only constant
// resources. It fails when a new version of Kubernetes adds a function.
func TestEachFunctionIsBounded(t *testing.T) {
	env, err := environment()
	if err != nil {
		t.Fatal(err)
	}
	for name := range env.Functions() {
		_, isMeasured := measured[name]
		if isMeasured == slices.Contains(unmeasured, name) {
			t.Errorf("%s must be in measured or in unmeasured: can its result exceed its arguments, or its memory or time exceed one read of them?", name)
		}
	}
	for _, name := range unmeasured {
		if env.Functions()[name] == nil {
			t.Errorf("%s is not a function of the environment", name)
		}
	}
}
