// Package host is the seam between an application and what runs it: the node, or a test's memory.
package host

// Host is what the contract lets an application import, apart from its log.
type Host interface {
	// Get returns the value of a key, and whether there is one.
	Get(key string) ([]byte, bool, error)
	Put(key string, value []byte) error
	// Delete forgets a key, silently when it is not there.
	Delete(key string) error
	// Tell puts a message into another's mailbox; the error is a *Record.
	Tell(to, messageType string, payload []byte) error
	// Ask sends a message and waits for its reply; the error is a *Record.
	Ask(to, messageType string, payload []byte, timeoutMillis uint32) ([]byte, error)
}

// Record is the error record of the contract.
type Record struct {
	Code      string
	Message   string
	Retryable bool
}

func (r *Record) Error() string { return r.Code + ": " + r.Message }
