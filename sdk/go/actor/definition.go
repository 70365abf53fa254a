package actor

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"plexspaces/internal/payload"
)

// None is an empty payload or reply.
type None = struct{}

// A Definition describes an actor with the state S. It is created by [Define].
type Definition[S any] struct {
	fresh    func() *S
	handlers map[string]handler[S]
	start    func(*S) error
	shutdown func(*S)
	save     func(*S) ([]byte, error)
	restore  func(*S, []byte) error
}

// An Option is a part of a [Definition].
type Option[S any] func(*Definition[S])

type handler[S any] func(state *S, payload []byte) ([]byte, error)

// Define describes an actor: fresh creates its state, the options add its behaviour.
//
// The state is saved as JSON through encoding/json, unless [Keep] says otherwise. It panics if
// the definition contradicts itself.
func Define[S any](fresh func() *S, options ...Option[S]) *Definition[S] {
	definition := &Definition[S]{
		fresh:    fresh,
		handlers: map[string]handler[S]{},
		start:    func(*S) error { return nil },
		shutdown: func(*S) {},
		save:     saveJSON[S],
		restore:  restoreJSON[S],
	}
	for _, option := range options {
		option(definition)
	}
	return definition
}

// Handle sets the function that answers messages of a type, often a method of the state:
//
//	actor.Handle("add", (*Counter).Add)
//
// Messages are handled one at a time.
func Handle[S, In, Out any](messageType string, handle func(*S, In) (Out, error)) Option[S] {
	if messageType == "" || handle == nil {
		panic("actor: a handler needs the type of its messages, and a function")
	}
	return func(definition *Definition[S]) {
		if _, taken := definition.handlers[messageType]; taken {
			panic(fmt.Sprintf("actor: a second handler for %q", messageType))
		}
		definition.handlers[messageType] = func(state *S, data []byte) ([]byte, error) {
			in, err := read[In](data)
			if err != nil {
				return nil, Failf("bad-payload", "%s: %v", messageType, err)
			}
			out, err := handle(state, in)
			if err != nil {
				return nil, err
			}
			reply, err := payload.Encode(out)
			if err != nil {
				return nil, &unwritable{err}
			}
			return reply, nil
		}
	}
}

// OnStart sets a function that is called once per instance, after its state is restored and before
// its first message. If it returns an error, the deploy fails with that message.
func OnStart[S any](start func(*S) error) Option[S] {
	return func(definition *Definition[S]) { definition.start = start }
}

// OnShutdown sets a function that is called last, when the instance is stopped cleanly.
func OnShutdown[S any](shutdown func(*S)) Option[S] {
	return func(definition *Definition[S]) { definition.shutdown = shutdown }
}

// Keep sets how the state is saved and restored. What restore gets may be of an earlier version of the application; it is not called for the very first instance.
func Keep[S any](save func(*S) ([]byte, error), restore func(*S, []byte) error) Option[S] {
	return func(definition *Definition[S]) {
		definition.save, definition.restore = save, restore
	}
}

func (d *Definition[S]) unknown(messageType string) error {
	known := slices.Sorted(maps.Keys(d.handlers))
	return Failf("unknown-message", "%s does not know %q; it knows: %s",
		reflect.TypeFor[S]().Name(), messageType, list(known))
}

func read[In any](data []byte) (In, error) {
	var in In
	if err := payload.Decode(data, &in); err != nil {
		return in, err
	}
	if checked, ok := any(&in).(interface{ Validate() error }); ok {
		return in, checked.Validate()
	}
	return in, nil
}
