package host

import (
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"unsafe"
)

// Current is the host in place.
var Current Host = contract{}

// Where everything lies that the host hands over, until it is copied and released: a message with
// the name of its sender and its type, a value, or the state of the instance. What does not fit ends
// the instance.
var arena []byte

// How long the arena is for messages.
var messages int

// Between a call and the copying of its result, no other goroutine may call.
var calls sync.Mutex

//go:wasmimport plexspaces:arena register
func arenaRegister(block unsafe.Pointer, size uint32)

//go:wasmimport plexspaces:arena mark
func arenaMark() uint32

//go:wasmimport plexspaces:arena release
func arenaRelease(mark uint32)

//go:wasmimport plexspaces:application/logging@0.1.0 log
func loggingLog(level uint32, message unsafe.Pointer, size uint32)

//go:wasmimport plexspaces:application/keyvalue@0.1.0 get
func keyvalueGet(key unsafe.Pointer, keySize uint32, result unsafe.Pointer)

//go:wasmimport plexspaces:application/keyvalue@0.1.0 put
func keyvaluePut(
	key unsafe.Pointer, keySize uint32, value unsafe.Pointer, valueSize uint32,
	result unsafe.Pointer,
)

//go:wasmimport plexspaces:application/keyvalue@0.1.0 delete
func keyvalueDelete(key unsafe.Pointer, keySize uint32, result unsafe.Pointer)

//go:wasmimport plexspaces:application/messaging@0.1.0 tell
func messagingTell(
	to unsafe.Pointer, toSize uint32, messageType unsafe.Pointer, messageTypeSize uint32,
	payload unsafe.Pointer, payloadSize uint32, result unsafe.Pointer,
)

//go:wasmimport plexspaces:application/messaging@0.1.0 ask
func messagingAsk(
	to unsafe.Pointer, toSize uint32, messageType unsafe.Pointer, messageTypeSize uint32,
	payload unsafe.Pointer, payloadSize uint32, timeoutMillis uint32, result unsafe.Pointer,
)

func init() {
	var first int
	first, messages = arenaSizes(os.Getenv, debug.SetMemoryLimit(-1))
	hold(first)
}

// hold makes the arena so long. Pages of it that nothing was written to cost nothing.
func hold(size int) {
	arena = make([]byte, size)
	arenaRegister(unsafe.Pointer(unsafe.SliceData(arena)), uint32(size))
}

// TakeState returns the state that the host handed over, and gives the arena back.
func TakeState(data unsafe.Pointer, size uint32) []byte {
	if int(size) < least {
		state := Take(data, size)
		Release()
		return state
	}
	// A long one stays where it is: there may be no room for a copy of it.
	state := within(uint32(uintptr(data)), size)
	hold(messages)
	return state
}

// Take returns a copy of what the host handed over.
func Take(data unsafe.Pointer, size uint32) []byte { return taken(uint32(uintptr(data)), size) }

// Release gives the arena back; to be called by an export when it has taken its arguments.
func Release() { arenaRelease(0) }

// words is where a result is written, as the canonical ABI lays it out; the first is 0 for ok.
type words [6]uint32

func (w *words) failed() bool { return byte(w[0]) != 0 }

func (w *words) bytes(at int) []byte { return taken(w[at], w[at+1]) }

func (w *words) record() error {
	return &Record{string(w.bytes(1)), string(w.bytes(3)), byte(w[5]) != 0}
}

func (w *words) refusal() error {
	if w.failed() {
		return errors.New(string(w.bytes(1)))
	}
	return nil
}

func taken(at, size uint32) []byte {
	if size == 0 {
		return nil
	}
	return append([]byte(nil), within(at, size)...)
}

func within(at, size uint32) []byte {
	begin := at - uint32(uintptr(unsafe.Pointer(unsafe.SliceData(arena))))
	return arena[begin : begin+size : begin+size]
}

// call runs a call to the host with a place for its result, and what reads the result.
func call(run func(result unsafe.Pointer), read func(*words)) {
	calls.Lock()
	defer calls.Unlock()
	defer arenaRelease(arenaMark())
	var result words
	run(unsafe.Pointer(&result))
	read(&result)
}

type contract struct{}

func (contract) Get(key string) (value []byte, found bool, err error) {
	call(func(result unsafe.Pointer) {
		keyAt, keySize := text(key)
		keyvalueGet(keyAt, keySize, result)
	}, func(result *words) {
		if err = result.refusal(); err == nil && byte(result[1]) != 0 {
			value, found = result.bytes(2), true
		}
	})
	return value, found, err
}

func (contract) Put(key string, value []byte) (err error) {
	call(func(result unsafe.Pointer) {
		keyAt, keySize := text(key)
		valueAt, valueSize := data(value)
		keyvaluePut(keyAt, keySize, valueAt, valueSize, result)
	}, func(result *words) { err = result.refusal() })
	return err
}

func (contract) Delete(key string) (err error) {
	call(func(result unsafe.Pointer) {
		keyAt, keySize := text(key)
		keyvalueDelete(keyAt, keySize, result)
	}, func(result *words) { err = result.refusal() })
	return err
}

func (contract) Tell(to, messageType string, payload []byte) (err error) {
	call(func(result unsafe.Pointer) {
		toAt, toSize := text(to)
		typeAt, typeSize := text(messageType)
		payloadAt, payloadSize := data(payload)
		messagingTell(toAt, toSize, typeAt, typeSize, payloadAt, payloadSize, result)
	}, func(result *words) {
		if result.failed() {
			err = result.record()
		}
	})
	return err
}

func (contract) Ask(
	to, messageType string, payload []byte, timeoutMillis uint32,
) (reply []byte, err error) {
	call(func(result unsafe.Pointer) {
		toAt, toSize := text(to)
		typeAt, typeSize := text(messageType)
		payloadAt, payloadSize := data(payload)
		messagingAsk(toAt, toSize, typeAt, typeSize, payloadAt, payloadSize, timeoutMillis, result)
	}, func(result *words) {
		if result.failed() {
			err = result.record()
		} else {
			reply = result.bytes(1)
		}
	})
	return reply, err
}

// text returns a string as the contract demands it: the host ends an instance that gives another.
func text(words string) (unsafe.Pointer, uint32) {
	words = strings.ToValidUTF8(words, "\ufffd")
	return unsafe.Pointer(unsafe.StringData(words)), uint32(len(words))
}

func data(bytes []byte) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(bytes)), uint32(len(bytes))
}
