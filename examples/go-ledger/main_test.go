package main

import (
	"errors"
	"testing"

	"plexspaces/actor"
	"plexspaces/actortest"
)

func started(t *testing.T) (*actortest.Node, *actortest.Actor[Ledger]) {
	node := actortest.NewNode(t)
	return node, actortest.Start(node, ledger)
}

func send(t *testing.T, a *actortest.Actor[Ledger], messageType, payload, want string) {
	t.Helper()
	reply, err := a.Send(messageType, payload)
	if err != nil {
		t.Fatalf("%s %s: %v", messageType, payload, err)
	}
	if reply != want {
		t.Errorf("%s %s = %s, want %s", messageType, payload, reply, want)
	}
}

func refuse(t *testing.T, a *actortest.Actor[Ledger], messageType, payload, code string) {
	t.Helper()
	reply, err := a.Send(messageType, payload)
	var failure *actor.Failure
	if !errors.As(err, &failure) || failure.Code != code {
		t.Errorf("%s %s = %s, %v, want the error %s", messageType, payload, reply, err, code)
	}
}

func TestBookingMovesMoney(t *testing.T) {
	_, a := started(t)

	send(t, a, "book", `{"to": "ann", "cents": 500}`, `{"number":1,"balance":500}`)
	send(t, a, "book", `{"from": "ann", "to": "bob", "cents": 120}`, `{"number":2,"balance":380}`)
	send(t, a, "book", `{"from": "bob", "cents": 20}`, `{"number":3,"balance":100}`)
	send(t, a, "balance", "ann", "380")
	send(t, a, "accounts", "", `{"ann":380,"bob":100}`)
}

func TestWhatCannotBeBookedIsRefusedAndChangesNothing(t *testing.T) {
	node, a := started(t)
	send(t, a, "book", `{"to": "ann", "cents": 500}`, `{"number":1,"balance":500}`)

	refuse(t, a, "book", `{"from": "ann", "to": "bob", "cents": 501}`, "overdrawn")
	refuse(t, a, "book", `{"from": "bob", "to": "ann", "cents": 1}`, "not-found")
	refuse(t, a, "book", `{"from": "ann", "to": "bob", "cents": -1}`, "bad-payload")
	refuse(t, a, "book", `{"cents": 1}`, "bad-payload")
	refuse(t, a, "book", `{"to": "bob", "euros": 5}`, "bad-payload")
	refuse(t, a, "steal", "", "unknown-message")

	send(t, a, "accounts", "", `{"ann":500}`)
	if len(node.Values) != 1 {
		t.Errorf("the store holds %v", node.Values)
	}
}

func TestBalancesSurviveARestart(t *testing.T) {
	_, a := started(t)
	send(t, a, "book", `{"to": "ann", "cents": 500}`, `{"number":1,"balance":500}`)

	a.Restart()

	send(t, a, "book", `{"to": "ann", "cents": 1}`, `{"number":2,"balance":501}`)
}

func TestBookingsAreInTheStore(t *testing.T) {
	node, a := started(t)
	send(t, a, "book", `{"to": "ann", "cents": 500}`, `{"number":1,"balance":500}`)

	if got := string(node.Values["booking/1"]); got != `{"to":"ann","cents":500}` {
		t.Errorf("stored %s", got)
	}
	send(t, a, "booking", "1", `{"to":"ann","cents":500}`)
	refuse(t, a, "booking", "2", "not-found")
}

func TestTheWatcherIsTold(t *testing.T) {
	node, a := started(t)
	send(t, a, "watch", "audit", "")
	send(t, a, "book", `{"to": "ann", "cents": 500}`, `{"number":1,"balance":500}`)
	send(t, a, "watch", "", "")
	send(t, a, "book", `{"to": "ann", "cents": 1}`, `{"number":2,"balance":501}`)

	if len(node.Told) != 1 || node.Told[0].To != "audit" || node.Told[0].Type != "booked" {
		t.Fatalf("told %v", node.Told)
	}
	if got := string(node.Told[0].Payload); got != `{"to":"ann","cents":500}` {
		t.Errorf("told %s", got)
	}
}

func TestPrimesAreCounted(t *testing.T) {
	_, a := started(t)
	for limit, want := range map[string]string{"0": "0", "2": "1", "10": "4", "1000": "168", "-5": "0"} {
		send(t, a, "primes", limit, want)
	}
}
