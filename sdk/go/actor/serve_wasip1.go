package actor

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unsafe"

	"plexspaces/internal/host"
)

// The actor behind the contract plexspaces:application/actor. Pointers given to the host must stay
// valid until the next call: what they point to is kept in variables of this file.

type application interface {
	begin(saved []byte) (life, error)
}

type life interface {
	Receive(from, messageType string, payload []byte) ([]byte, error)
	Snapshot() ([]byte, error)
	Shutdown()
}

var (
	served  application
	current life
	// saved is the last good snapshot.
	saved []byte

	result [6]uint32
	kept   [2][]byte
)

// Serve makes the actor the application. Call it in main: in a component it returns at once and
// main goes on to its end; outside of one it only says how to run the actor.
func Serve[S any](definition *Definition[S]) {
	if served != nil {
		panic("actor: Serve is called a second time: an application has one actor")
	}
	served = definition
}

func (d *Definition[S]) begin(saved []byte) (life, error) { return d.Start(saved) }

// A library has no start of its own that would call main.
//
//go:linkname programMain main.main
func programMain()

//go:wasmexport plexspaces:application/actor@0.1.0#init
func contractInit(state unsafe.Pointer, size uint32) unsafe.Pointer {
	saved = host.TakeState(state, size)
	var err error
	if current, err = begin(saved); err != nil {
		result[0] = 1
		give(0, 1, text(err.Error()))
	} else {
		result[0] = 0
	}
	return unsafe.Pointer(&result)
}

//go:wasmexport plexspaces:application/actor@0.1.0#handle-message
func contractHandleMessage(
	from unsafe.Pointer, fromSize uint32, messageType unsafe.Pointer, messageTypeSize uint32,
	payload unsafe.Pointer, payloadSize uint32,
) unsafe.Pointer {
	fromText := string(host.Take(from, fromSize))
	typeText := string(host.Take(messageType, messageTypeSize))
	data := host.Take(payload, payloadSize)
	host.Release()
	reply, err := current.Receive(fromText, typeText, data)
	var failure *Failure
	if errors.As(err, &failure) {
		result[0], result[5] = 1, 0
		give(0, 1, text(failure.Code))
		give(1, 3, text(failure.Message))
		if failure.Retryable {
			result[5] = 1
		}
	} else {
		result[0] = 0
		give(0, 1, reply)
	}
	return unsafe.Pointer(&result)
}

//go:wasmexport plexspaces:application/actor@0.1.0#snapshot-state
func contractSnapshotState() unsafe.Pointer {
	// The contract has no error here. The last good state costs less than the instance.
	if state, err := snapshot(); err == nil {
		saved = state
	} else {
		slog.Error(fmt.Sprintf("the state could not be saved; the one before it is kept: %v", err))
	}
	give(0, 0, saved)
	return unsafe.Pointer(&result)
}

//go:wasmexport plexspaces:application/actor@0.1.0#shutdown
func contractShutdown() {
	defer func() {
		if cause := recover(); cause != nil {
			panicked("the actor failed in shutdown", cause)
		}
	}()
	if current != nil {
		current.Shutdown()
	}
}

func begin(saved []byte) (made life, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %s", panicked("the actor did not start", cause).Message)
		}
	}()
	if served == nil {
		programMain()
	}
	if served == nil {
		return nil, errors.New("main does not call actor.Serve")
	}
	return served.begin(saved)
}

func snapshot() (state []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %s", panicked("the state was not saved", cause).Message)
		}
	}()
	return current.Snapshot()
}

// give puts the place and size of data into two words of the result.
func give(keep, word int, data []byte) {
	kept[keep] = data
	result[word] = uint32(uintptr(unsafe.Pointer(unsafe.SliceData(data))))
	result[word+1] = uint32(len(data))
}

// text returns a string as the contract demands it: the host ends an instance that gives another.
func text(words string) []byte { return []byte(strings.ToValidUTF8(words, "\ufffd")) }
