package main

import (
	"errors"
	"testing"

	"plexspaces/actor"
	"plexspaces/actortest"
)

func TestGreetAnswersByNameAndCounts(t *testing.T) {
	a := actortest.Start(actortest.NewNode(t), greeter)

	greeting, err := a.State.Greet(Person{"Ada"})
	if want := (Greeting{"Hello, Ada!", 1}); greeting != want || err != nil {
		t.Errorf("%v, %v, want %v", greeting, err, want)
	}
	// As the node calls it: the type of the message, and JSON in and out.
	reply, err := a.Send("greet", `{"name": "Grace"}`)
	if want := `{"text":"Hello, Grace!","count":2}`; reply != want || err != nil {
		t.Errorf("%s, %v, want %s", reply, err, want)
	}
}

func TestGreetWithoutANameIsAnErrorRecord(t *testing.T) {
	a := actortest.Start(actortest.NewNode(t), greeter)

	_, err := a.Send("greet", `{"name": ""}`)

	var failure *actor.Failure
	if !errors.As(err, &failure) || failure.Code != "no-name" {
		t.Errorf("%v, want no-name", err)
	}
}

func TestCountSurvivesARestart(t *testing.T) {
	a := actortest.Start(actortest.NewNode(t), greeter)
	if _, err := a.Send("greet", `{"name": "Ada"}`); err != nil {
		t.Fatal(err)
	}

	a.Restart()

	if reply, _ := a.Send("count", ""); reply != "1" {
		t.Errorf("count %s, want 1", reply)
	}
}
