// Package actor is for writing PlexSpaces applications in Go.
//
// An application is a program whose main function serves one actor:
//
//	package main
//
//	import (
//		"log/slog"
//
//		"plexspaces/actor"
//	)
//
//	// Counter is the state: its exported fields survive a restart.
//	type Counter struct{ Count int64 }
//
//	// Add is a handler: payload and reply are JSON.
//	func (c *Counter) Add(amount int64) (int64, error) {
//		c.Count += amount
//		slog.Info("added", "count", c.Count)
//		return c.Count, nil
//	}
//
//	var counter = actor.Define(
//		func() *Counter { return &Counter{} },
//		actor.Handle("add", (*Counter).Add),
//	)
//
//	func main() { actor.Serve(counter) }
//
// "plexspaces build" makes a WebAssembly component from it, "plexspaces deploy" runs it.
//
// The types of a handler say how its payload is read and its reply is written:
//
//	[]byte         as they are
//	string         UTF-8 text
//	None           an empty payload; what comes is ignored
//	anything else  JSON, through encoding/json; a field the type does not have is refused
//
// A type with a method Validate() error has it called on what was read.
//
// If a handler returns an error, the caller gets an error record and the actor continues: a
// [Failure] has its own code; any other error gets the code "failed". If a handler panics, the code
// is "exception", its stack goes to the log, and the actor continues too. A payload
// that does not match is answered with "bad-payload", a message without a handler with
// "unknown-message".
//
// What Go cannot recover from ends the instance: memory or stack exhausted, a deadlock, a panic in
// a goroutine, [os.Exit]. The next message gets a new instance with the last saved state.
//
// Use the standard library for time, randomness, environment variables, the log ([log/slog] and
// [log]) and the standard streams. There are no files, and of the network only net/http: see
// plexspaces/outgoing. Goroutines run while a message
// is handled; those still running afterwards continue with the next message.
//
// In go test everything uses stand-ins: see plexspaces/actortest.
package actor
