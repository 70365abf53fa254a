package actor

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"reflect"
	"runtime"
	"strings"
)

// An Instance is one life of an actor. The node creates one, and another after a restart or a trap;
// plexspaces/actortest creates them in tests.
type Instance[S any] struct {
	// State is the actor's state; it is handled by one message at a time.
	State      *S
	definition *Definition[S]
}

var sender string

// Sender returns the name of the application that sent the current message, empty for a client.
func Sender() string { return sender }

// Start makes an instance from what Snapshot returned, nil for the first one.
func (d *Definition[S]) Start(saved []byte) (*Instance[S], error) {
	instance := &Instance[S]{State: d.fresh(), definition: d}
	if len(saved) > 0 {
		if err := d.restore(instance.State, saved); err != nil {
			return nil, fmt.Errorf("the saved state does not fit: %w", err)
		}
	}
	return instance, d.start(instance.State)
}

// Receive handles one message as it comes from the node, and returns the reply or a [Failure].
func (i *Instance[S]) Receive(from, messageType string, payload []byte) (reply []byte, err error) {
	handle, known := i.definition.handlers[messageType]
	if !known {
		return nil, i.definition.unknown(messageType)
	}
	sender = from
	defer func() {
		sender = ""
		if cause := recover(); cause != nil {
			reply, err = nil, panicked(fmt.Sprintf("%q was not handled", messageType), cause)
		}
	}()
	reply, err = handle(i.State, payload)
	if err != nil {
		return nil, failureOf(messageType, err)
	}
	return reply, nil
}

// Snapshot returns the state; empty for a state that has nothing to keep.
func (i *Instance[S]) Snapshot() ([]byte, error) { return i.definition.save(i.State) }

// Shutdown runs the instance's last call.
func (i *Instance[S]) Shutdown() { i.definition.shutdown(i.State) }

// unwritable is the error of a reply that cannot be written: a mistake in the application, which
// its caller can do nothing about.
type unwritable struct{ cause error }

func (u *unwritable) Error() string { return fmt.Sprintf("the reply cannot be written: %v", u.cause) }

func failureOf(messageType string, err error) *Failure {
	var failure *Failure
	var mistake *unwritable
	switch {
	case errors.As(err, &failure):
		if error(failure) == err {
			return failure
		}
		// Wrapped: what was added is for people.
		return &Failure{failure.Code, err.Error(), failure.Retryable}
	case errors.As(err, &mistake):
		slog.Error(fmt.Sprintf("%q was not handled: %v", messageType, mistake))
		return &Failure{Code: "exception", Message: mistake.Error()}
	default:
		return &Failure{Code: "failed", Message: err.Error()}
	}
}

// panicked logs a panic with its stack; to be called by the deferred function that recovered it.
func panicked(what string, cause any) *Failure {
	message := fmt.Sprint(cause)
	slog.Error(fmt.Sprintf("%s: panic: %s\n%s", what, message, applicationStack()))
	return &Failure{Code: "exception", Message: message}
}

// applicationStack returns the frames between the panic and this package.
func applicationStack() string {
	counters := make([]uintptr, 64)
	frames := runtime.CallersFrames(counters[:runtime.Callers(1, counters)])
	_, thisFile, _, _ := runtime.Caller(0)
	directory := path.Dir(thisFile) + "/"
	var lines strings.Builder
	panicking := false
	for {
		frame, more := frames.Next()
		// By the file: functions of this package are inlined into those of others.
		own := strings.HasPrefix(frame.File, directory)
		switch {
		case frame.Function == "runtime.gopanic":
			panicking = true
		case panicking && own:
			return lines.String()
		case panicking && (lines.Len() > 0 || !strings.HasPrefix(frame.Function, "runtime.")):
			fmt.Fprintf(&lines, "    %s\n        %s:%d\n", frame.Function, frame.File, frame.Line)
		}
		if !more {
			return lines.String()
		}
	}
}

func saveJSON[S any](state *S) ([]byte, error) {
	if kind := reflect.TypeFor[S](); kind.Kind() == reflect.Struct && kind.NumField() == 0 {
		return nil, nil
	}
	return json.Marshal(state)
}

func restoreJSON[S any](state *S, saved []byte) error { return json.Unmarshal(saved, state) }

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
