// The conformance actor: see ../../README.md for its messages.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"os"
	"strings"
	"time"

	"plexspaces/actor"
	"plexspaces/keyvalue"
)

type state struct{ Count int64 }

type entry struct{ Key, Value string }

type message struct {
	To, Type, Data string
	Timeout        float64 `json:"timeout_ms"`
}

var conformance = actor.Define(
	func() *state { return &state{} },
	actor.Handle("echo", (*state).echo),
	actor.Handle("upper", (*state).upper),
	actor.Handle("count", (*state).count),
	actor.Handle("state", (*state).state),
	actor.Handle("sender", (*state).sender),
	actor.Handle("put", (*state).put),
	actor.Handle("get", (*state).get),
	actor.Handle("delete", (*state).delete),
	actor.Handle("ask", (*state).ask),
	actor.Handle("tell", (*state).tell),
	actor.Handle("fail", (*state).fail),
	actor.Handle("throw", (*state).throw),
	actor.Handle("log", (*state).log),
	actor.Handle("env", (*state).env),
	actor.Handle("now", (*state).now),
	actor.Handle("random", (*state).random),
	actor.Handle("loop", (*state).loop),
	actor.Handle("hoard", (*state).hoard),
	actor.Handle("primes", (*state).primes),
)

func main() { actor.Serve(conformance) }

func (s *state) echo(payload []byte) ([]byte, error) { return payload, nil }

func (s *state) upper(text string) (string, error) { return strings.ToUpper(text), nil }

func (s *state) count(actor.None) (int64, error) {
	s.Count++
	return s.Count, nil
}

func (s *state) state(actor.None) (int64, error) { return s.Count, nil }

func (s *state) sender(actor.None) (string, error) { return actor.Sender(), nil }

func (s *state) put(entry entry) (actor.None, error) {
	return actor.None{}, keyvalue.Put(entry.Key, entry.Value)
}

func (s *state) get(key string) (string, error) {
	value, _, err := keyvalue.Get[string](key)
	return value, err
}

func (s *state) delete(key string) (actor.None, error) {
	return actor.None{}, keyvalue.Delete(key)
}

func (s *state) ask(m message) ([]byte, error) {
	timeout := time.Duration(m.Timeout * float64(time.Millisecond))
	return actor.Ask[[]byte](m.To, m.Type, m.Data, timeout)
}

func (s *state) tell(m message) (string, error) {
	return "told", actor.Tell(m.To, m.Type, m.Data)
}

func (s *state) fail(text string) (actor.None, error) {
	return actor.None{}, &actor.Failure{Code: "asked", Message: text, Retryable: true}
}

func (s *state) throw(text string) (actor.None, error) { panic("boom: " + text) }

func (s *state) log(text string) (actor.None, error) {
	slog.Info(text)
	return actor.None{}, nil
}

func (s *state) env(name string) (string, error) { return os.Getenv(name), nil }

func (s *state) now(actor.None) (int64, error) { return time.Now().UnixMilli(), nil }

func (s *state) random(actor.None) (string, error) {
	drawn := make([]byte, 16)
	_, err := rand.Read(drawn)
	return hex.EncodeToString(drawn), err
}

func (s *state) loop(actor.None) (actor.None, error) {
	for {
	}
}

func (s *state) hoard(actor.None) (actor.None, error) {
	var hoard [][]byte
	for {
		hoard = append(hoard, make([]byte, 1<<20))
	}
}

func (s *state) primes(limit int64) (int64, error) {
	var count int64
	for n := int64(2); n <= limit; n++ {
		if isPrime(n) {
			count++
		}
	}
	return count, nil
}

func isPrime(n int64) bool {
	if n%2 == 0 {
		return n == 2
	}
	for d := int64(3); d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}
