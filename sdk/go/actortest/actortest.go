//go:build !wasip1

// Package actortest tests an application without a node, in go test:
//
//	func TestItRemembers(t *testing.T) {
//		node := actortest.NewNode(t)
//		node.Applications["greeter"] = func(messageType string, payload []byte) ([]byte, error) {
//			return []byte("hello"), nil
//		}
//		counter := actortest.Start(node, counterDefinition)
//		reply, err := counter.Send("add", "2") // as the node would
//		...
//		counter.Restart()                      // from its snapshot
//		if counter.State.Count != 2 { ... }
//		if string(node.Values["last"]) != "2" { ... } // what keyvalue holds
//	}
//
// Handlers are functions, and can be called as such. There is one node at a time: tests that use
// it must not be parallel. The log is that of the standard library.
package actortest

import (
	"testing"

	"plexspaces/actor"
	"plexspaces/internal/host"
)

// Told is a message that was told to another application.
type Told = host.Told

// Answer stands in for another application: message type and payload in, reply out.
type Answer = host.Answer

// Node is the stand-in for a node.
type Node struct {
	// Memory has what keyvalue holds in Values, what was told to others in Told, oldest first, and
	// who answers when asked in Applications.
	*host.Memory
	test testing.TB
}

// NewNode puts a node in place, until the test ends: with no keys, nothing told, nobody to ask.
func NewNode(t testing.TB) *Node {
	t.Helper()
	node := &Node{Memory: host.NewMemory(), test: t}
	replaced := host.Current
	host.Current = node.Memory
	t.Cleanup(func() { host.Current = replaced })
	return node
}

// Actor is an actor that runs on a [Node].
type Actor[S any] struct {
	*actor.Instance[S]
	definition *actor.Definition[S]
	test       testing.TB
}

// Start starts the first instance of an actor; the test fails when the actor does not start.
func Start[S any](node *Node, definition *actor.Definition[S]) *Actor[S] {
	node.test.Helper()
	started := &Actor[S]{definition: definition, test: node.test}
	started.begin(nil)
	return started
}

// Send hands a client's message to the actor as the node would; the error is an [*actor.Failure].
func (a *Actor[S]) Send(messageType, payload string) (string, error) {
	return a.SendFrom("", messageType, payload)
}

// SendFrom hands the message of another application to the actor.
func (a *Actor[S]) SendFrom(sender, messageType, payload string) (string, error) {
	reply, err := a.Receive(sender, messageType, []byte(payload))
	return string(reply), err
}

// Restart begins a new instance with the state of this one; the test fails when that fails.
func (a *Actor[S]) Restart() {
	a.test.Helper()
	saved, err := a.Snapshot()
	if err != nil {
		a.test.Fatalf("snapshot: %v", err)
	}
	a.begin(saved)
}

func (a *Actor[S]) begin(saved []byte) {
	a.test.Helper()
	instance, err := a.definition.Start(saved)
	if err != nil {
		a.test.Fatalf("start: %v", err)
	}
	a.Instance = instance
}
