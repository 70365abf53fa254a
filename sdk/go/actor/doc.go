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
// "plexspaces build" makes a WebAssembly component of it, "plexspaces deploy" runs that.
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
// A handler that returns an error answers its caller with an error record and lives on: with a
// [Failure], the code it gives; with any other error, the code "failed". A handler that panics
// answers with the code "exception", its stack goes to the log, and it lives on too. A payload
// that does not fit is answered with "bad-payload", a message without a handler with
// "unknown-message".
//
// What Go cannot recover from ends the instance: memory or stack exhausted, a deadlock, a panic in
// a goroutine, [os.Exit]. The next message finds a new instance with the state last saved.
//
// Time, randomness, environment variables, the log ([log/slog] and [log]) and what is printed to
// the standard streams are the standard library's. There are no files and no network. Goroutines
// run while a message is handled; what still runs afterwards goes on with the next message.
//
// On the developer's machine, in go test, everything works on stand-ins: see plexspaces/actortest.
package actor
