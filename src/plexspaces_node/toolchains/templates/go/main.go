// An application for a PlexSpaces node. README.md says what can be sent to it.
package main

import (
	"log/slog"

	"plexspaces/actor"
)

// Greeter is the state: its exported fields are kept across restarts.
type Greeter struct {
	Count int
}

// Person is what "greet" takes.
type Person struct {
	Name string `json:"name"`
}

// Greeting is what "greet" answers.
type Greeting struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

var greeter = actor.Define(
	func() *Greeter { return &Greeter{} },
	actor.Handle("greet", (*Greeter).Greet),
	actor.Handle("count", (*Greeter).Greeted),
)

func main() { actor.Serve(greeter) }

// Greet greets a person, by name.
func (g *Greeter) Greet(person Person) (Greeting, error) {
	if person.Name == "" {
		// The caller gets this as an error record; the actor and its state live on.
		return Greeting{}, actor.Failf("no-name", "the name is empty")
	}
	g.Count++
	slog.Info("greeting", "name", person.Name, "number", g.Count)
	return Greeting{Text: "Hello, " + person.Name + "!", Count: g.Count}, nil
}

// Greeted answers how many were greeted.
func (g *Greeter) Greeted(actor.None) (int, error) { return g.Count, nil }
