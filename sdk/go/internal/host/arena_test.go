package host

import (
	"math"
	"testing"
)

func TestArenaHoldsTheStateAndThenMessages(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		name           string
		message, state string
		memory         int64
		first, then    int
	}{
		{"a node that says nothing", "", "", math.MaxInt64, least, least},
		{"a node that says nonsense", "x", "-1", math.MaxInt64, least, least},
		{"messages", "16777216", "0", math.MaxInt64, 16*mib + besides, 16*mib + besides},
		{"short messages", "100", "0", math.MaxInt64, least, least},
		{"a state that is long", "100", "100000000", math.MaxInt64, 100000000 + besides, least},
		{"a state that is short", "16777216", "5", math.MaxInt64, 16*mib + besides, 16*mib + besides},
		{"a small memory", "16777216", "0", 48 * mib, 8 * mib, 8 * mib},
		{"a tiny memory", "16777216", "0", 12 * mib, least, least},
	} {
		variables := map[string]string{
			"PLEXSPACES_MESSAGE_LIMIT": test.message,
			"PLEXSPACES_STATE_BYTES":   test.state,
		}
		getenv := func(name string) string { return variables[name] }
		first, then := arenaSizes(getenv, test.memory)
		if first != test.first || then != test.then {
			t.Errorf("%s: %d and %d, not %d and %d", test.name, first, then, test.first, test.then)
		}
	}
}
