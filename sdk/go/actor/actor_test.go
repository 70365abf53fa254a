package actor_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"plexspaces/actor"
	"plexspaces/actortest"
	"plexspaces/keyvalue"
)

type amount struct {
	Of int `json:"of"`
}

func (a *amount) Validate() error {
	if a.Of < 0 {
		return errors.New("of is below zero")
	}
	return nil
}

type counter struct {
	Count   int
	Senders []string
	started bool
}

var definition = actor.Define(
	func() *counter { return &counter{Count: 10} },
	actor.OnStart(func(c *counter) error {
		if c.Count > 1000 {
			return errors.New("too many")
		}
		c.started = true
		return nil
	}),
	actor.Handle("add", func(c *counter, a amount) (int, error) {
		c.Count += a.Of
		c.Senders = append(c.Senders, actor.Sender())
		return c.Count, nil
	}),
	actor.Handle("count", func(c *counter, _ actor.None) (int, error) { return c.Count, nil }),
	actor.Handle("fail", func(_ *counter, code string) (actor.None, error) {
		return actor.None{}, &actor.Failure{Code: code, Message: "as asked", Retryable: true}
	}),
	actor.Handle("error", func(_ *counter, text string) (actor.None, error) {
		return actor.None{}, errors.New(text)
	}),
	actor.Handle("wrapped", func(_ *counter, text string) (actor.None, error) {
		return actor.None{}, fmt.Errorf("%s: %w", text, actor.Failf("inner", "%d", 1))
	}),
	actor.Handle("panic", func(c *counter, text string) (actor.None, error) {
		c.Count = 7
		panic("panic: " + text)
	}),
	actor.Handle("index", func(_ *counter, i int) (int, error) { return []int{}[i], nil }),
	actor.Handle("channel", func(_ *counter, _ actor.None) (chan int, error) { return nil, nil }),
	actor.Handle("ask", func(_ *counter, to string) (string, error) {
		return actor.Ask[string](to, "ping", amount{1}, time.Second)
	}),
	actor.Handle("ask-number", func(_ *counter, to string) (int, error) {
		return actor.Ask[int](to, "ping", nil, time.Second)
	}),
	actor.Handle("tell", func(_ *counter, to string) (actor.None, error) {
		return actor.None{}, actor.Tell(to, "note", amount{2})
	}),
	actor.Handle("keep", func(_ *counter, a *amount) (bool, error) {
		before, found, err := keyvalue.Get[amount]("k")
		if a == nil {
			return found, keyvalue.Delete("k")
		}
		return found && before.Of > 0, errors.Join(err, keyvalue.Put("k", a))
	}),
)

func started(t *testing.T) (*actortest.Node, *actortest.Actor[counter]) {
	node := actortest.NewNode(t)
	return node, actortest.Start(node, definition)
}

func failure(t *testing.T, err error) *actor.Failure {
	t.Helper()
	var found *actor.Failure
	if !errors.As(err, &found) {
		t.Fatalf("%v is no failure", err)
	}
	return found
}

func TestHandlersGetTypedPayloadsAndTheSender(t *testing.T) {
	_, a := started(t)

	if reply, err := a.SendFrom("other", "add", `{"of": 2}`); reply != "12" || err != nil {
		t.Errorf("add = %s, %v", reply, err)
	}
	if reply, err := a.Send("count", "anything"); reply != "12" || err != nil {
		t.Errorf("count = %s, %v", reply, err)
	}
	if len(a.State.Senders) != 1 || a.State.Senders[0] != "other" || actor.Sender() != "" {
		t.Errorf("senders %q, then %q", a.State.Senders, actor.Sender())
	}
}

func TestEveryFaultIsAFailureAndTheStateLivesOn(t *testing.T) {
	_, a := started(t)
	for _, c := range []struct {
		messageType, payload string
		want                 actor.Failure
	}{
		{"none", "", actor.Failure{"unknown-message", "", false}},
		{"add", "{", actor.Failure{"bad-payload", "add: not JSON: unexpected EOF", false}},
		{"add", `{"of":-1}`, actor.Failure{"bad-payload", "add: of is below zero", false}},
		{"add", `{"off":1}`, actor.Failure{"bad-payload", `add: unknown field "off"`, false}},
		{"fail", "nope", actor.Failure{"nope", "as asked", true}},
		{"error", "broke", actor.Failure{"failed", "broke", false}},
		{"wrapped", "while", actor.Failure{"inner", "while: inner: 1", false}},
		{"panic", "now", actor.Failure{"exception", "panic: now", false}},
		{"index", "3", actor.Failure{"exception", "runtime error: index out of range [3] with length 0", false}},
		{"channel", "", actor.Failure{"exception", "the reply cannot be written: unsupported type: chan int", false}},
	} {
		_, err := a.Send(c.messageType, c.payload)
		got := failure(t, err)
		if c.messageType == "none" {
			c.want.Message = `counter does not know "none"; it knows: add, ask, ask-number, channel, count, ` +
				"error, fail, index, keep, panic, tell, wrapped"
		}
		if *got != c.want {
			t.Errorf("%s: %+v, want %+v", c.messageType, *got, c.want)
		}
	}
	if reply, _ := a.Send("count", ""); reply != "7" {
		t.Errorf("count = %s", reply)
	}
}

func TestPanicIsLoggedWithTheApplicationsStack(t *testing.T) {
	_, a := started(t)
	var lines bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&lines, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })

	_, err := a.Send("panic", "now")

	logged := lines.String()
	if failure(t, err).Code != "exception" || !strings.Contains(logged, `\"panic\" was not handled: panic: panic: now`) {
		t.Errorf("logged %s", logged)
	}
	if !strings.Contains(logged, "level=ERROR") {
		t.Errorf("logged %s", logged)
	}
}

func TestStateSurvivesARestart(t *testing.T) {
	_, a := started(t)
	if _, err := a.SendFrom("x", "add", `{"of": 5}`); err != nil {
		t.Fatal(err)
	}
	old := a.State

	a.Restart()

	if a.State == old || a.State.Count != 15 || len(a.State.Senders) != 1 || !a.State.started {
		t.Errorf("state %+v", a.State)
	}
}

func TestStateThatDoesNotFitFailsTheStart(t *testing.T) {
	for saved, want := range map[string]string{
		`{"Count":"x"}`:        "the saved state does not fit: json: cannot unmarshal",
		`{"Count":1001}`:       "too many",
		"\xff":                 "the saved state does not fit: invalid character",
		`{"Count":1,"Gone":2}`: "",
	} {
		instance, err := definition.Start([]byte(saved))
		if want == "" {
			if err != nil || instance.State.Count != 1 {
				t.Errorf("%s: %v", saved, err)
			}
		} else if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", saved, err, want)
		}
	}
}

func TestStateIsKeptInTheFormOfTheApplication(t *testing.T) {
	var stopped bool
	d := actor.Define(
		func() *int { return new(int) },
		actor.Keep(
			func(n *int) ([]byte, error) { return []byte{byte(*n)}, nil },
			func(n *int, saved []byte) error { *n = int(saved[0]); return nil },
		),
		actor.OnShutdown(func(*int) { stopped = true }),
		actor.Handle("add", func(n *int, by int) (int, error) { *n += by; return *n, nil }),
	)
	a := actortest.Start(actortest.NewNode(t), d)
	if _, err := a.Send("add", "65"); err != nil {
		t.Fatal(err)
	}
	saved, err := a.Snapshot()
	a.Restart()
	a.Shutdown()

	if string(saved) != "A" || err != nil || *a.State != 65 || !stopped {
		t.Errorf("saved %q, %v, state %d, stopped %v", saved, err, *a.State, stopped)
	}
}

func TestActorWithoutStateSavesNothing(t *testing.T) {
	d := actor.Define(func() *struct{} { return &struct{}{} })
	a := actortest.Start(actortest.NewNode(t), d)

	if saved, err := a.Snapshot(); len(saved) != 0 || err != nil {
		t.Errorf("saved %q, %v", saved, err)
	}
}

func TestOthersAreAskedAndTold(t *testing.T) {
	node, a := started(t)
	node.Applications["other"] = func(messageType string, payload []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%s %s", messageType, payload), nil
	}
	node.Applications["full"] = func(string, []byte) ([]byte, error) {
		return nil, &actor.Failure{Code: "busy", Message: "later", Retryable: true}
	}
	node.Applications["broken"] = func(string, []byte) ([]byte, error) { return nil, errors.New("broken") }

	if reply, err := a.Send("ask", "other"); reply != `ping {"of":1}` || err != nil {
		t.Errorf("ask = %s, %v", reply, err)
	}
	if _, err := a.Send("tell", "other"); err != nil {
		t.Error(err)
	}
	if told := node.Told; len(told) != 1 || told[0].To != "other" || string(told[0].Payload) != `{"of":2}` {
		t.Errorf("told %+v", told)
	}
	for to, want := range map[string]actor.Failure{
		"full":   {"busy", "later", true},
		"broken": {"failed", "broken", false},
		"nobody": {"not-found", `no application named "nobody"`, false},
	} {
		_, err := a.Send("ask", to)
		if got := failure(t, err); *got != want {
			t.Errorf("%s: %+v", to, *got)
		}
	}
	_, err := a.Send("ask-number", "other")
	if got := failure(t, err); got.Code != "bad-reply" || !strings.Contains(got.Message, `the answer of "other" to "ping"`) {
		t.Errorf("%+v", *got)
	}
}

func TestValuesAreKept(t *testing.T) {
	node, a := started(t)
	for i, want := range []string{"false", "true", "true"} {
		if reply, err := a.Send("keep", fmt.Sprintf(`{"of":%d}`, i+1)); reply != want || err != nil {
			t.Errorf("%d: %s, %v", i, reply, err)
		}
	}
	if got := string(node.Values["k"]); got != `{"of":3}` {
		t.Errorf("k = %s", got)
	}
	if reply, err := a.Send("keep", ""); reply != "true" || err != nil || len(node.Values) != 0 {
		t.Errorf("delete: %s, %v, %v", reply, err, node.Values)
	}
	node.Values["k"] = []byte("no JSON")
	if _, _, err := keyvalue.Get[amount]("k"); err == nil || !strings.Contains(err.Error(), `keyvalue: the value of "k"`) {
		t.Errorf("%v", err)
	}
}

func TestDefinitionsThatContradictThemselvesPanic(t *testing.T) {
	handle := func(*int, int) (int, error) { return 0, nil }
	for want, define := range map[string]func(){
		`actor: a second handler for "a"`: func() {
			actor.Define(func() *int { return nil }, actor.Handle("a", handle), actor.Handle("a", handle))
		},
		"actor: a handler needs the type of its messages, and a function": func() { actor.Handle("", handle) },
	} {
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("panic %v, want %s", got, want)
				}
			}()
			define()
		}()
	}
}

func ExampleAsk() {
	total, err := actor.Ask[int64]("counter", "add", 2, 5*time.Second)
	fmt.Println(total, err)
	// Output: 0 not-found: no application named "counter"
}
