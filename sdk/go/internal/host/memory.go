//go:build !wasip1

package host

import "fmt"

// Current is the host in place.
var Current Host = NewMemory()

// Memory is the stand-in outside of a component.
type Memory struct {
	Values       map[string][]byte
	Told         []Told
	Applications map[string]Answer
}

// Told is a message that was told to another application.
type Told struct {
	To, Type string
	Payload  []byte
}

// Answer stands in for another application.
type Answer func(messageType string, payload []byte) ([]byte, error)

// NewMemory returns a host with no keys and no other applications.
func NewMemory() *Memory {
	return &Memory{Values: map[string][]byte{}, Applications: map[string]Answer{}}
}

func (m *Memory) Get(key string) ([]byte, bool, error) {
	value, found := m.Values[key]
	return value, found, nil
}

func (m *Memory) Put(key string, value []byte) error {
	m.Values[key] = value
	return nil
}

func (m *Memory) Delete(key string) error {
	delete(m.Values, key)
	return nil
}

func (m *Memory) Tell(to, messageType string, payload []byte) error {
	m.Told = append(m.Told, Told{to, messageType, payload})
	return nil
}

func (m *Memory) Ask(to, messageType string, payload []byte, _ uint32) ([]byte, error) {
	answer, found := m.Applications[to]
	if !found {
		return nil, &Record{Code: "not-found", Message: fmt.Sprintf("no application named %q", to)}
	}
	return answer(messageType, payload)
}
