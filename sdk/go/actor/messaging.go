package actor

import (
	"errors"
	"fmt"
	"math"
	"time"

	"plexspaces/internal/host"
	"plexspaces/internal/payload"
)

// Tell sends a message to another application without waiting for a reply; it returns when the
// message is in the other's mailbox. The payload is written like a reply; nil is empty.
//
// The error is a [*Failure], for example if the application does not exist or its mailbox is full.
func Tell(to, messageType string, message any) error {
	data, err := payload.Encode(message)
	if err != nil {
		return fmt.Errorf("the message %q to %q: %w", messageType, to, err)
	}
	return received(host.Current.Tell(to, messageType, data))
}

// Ask sends a message to another application, waits at most this long for the answer and returns it,
// read like a payload; fields that Reply does not have are ignored.
//
//	total, err := actor.Ask[int64]("counter", "add", 2, 5*time.Second)
//
// The error is a [*Failure]: the other's error record, the node's ("call-cycle" if the chain of asks
// would lead back to an actor that already waits in it), or "bad-reply" if it is not a Reply.
// A handler may return it as its own.
func Ask[Reply any](to, messageType string, message any, timeout time.Duration) (Reply, error) {
	var reply Reply
	data, err := payload.Encode(message)
	if err != nil {
		return reply, fmt.Errorf("the message %q to %q: %w", messageType, to, err)
	}
	milliseconds := min(max(timeout.Milliseconds(), 1), math.MaxUint32)
	answer, err := host.Current.Ask(to, messageType, data, uint32(milliseconds))
	if err != nil {
		return reply, received(err)
	}
	if err := payload.DecodeLenient(answer, &reply); err != nil {
		return reply, Failf("bad-reply", "the answer of %q to %q: %v", to, messageType, err)
	}
	return reply, nil
}

// received returns what came from the host, or from a stand-in of a test, as a failure.
func received(err error) error {
	var record *host.Record
	var failure *Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &record):
		return (*Failure)(record)
	case errors.As(err, &failure):
		return failure
	default:
		return &Failure{Code: "failed", Message: err.Error()}
	}
}
