// Package keyvalue is a small durable store of the application's own.
//
// What [Put] returned without error for survives the actor, its machine and the node. Values are
// written like replies and read like payloads: see plexspaces/actor.
package keyvalue

import (
	"fmt"

	"plexspaces/internal/host"
	"plexspaces/internal/payload"
)

// Get returns the value of a key as a T, and whether there is one.
//
//	price, found, err := keyvalue.Get[float64]("price/apple")
//
// The error is the store's, or says that the value is no T; fields that T does not have are passed
// over.
func Get[T any](key string) (value T, found bool, err error) {
	data, found, err := host.Current.Get(key)
	if err != nil {
		return value, false, fmt.Errorf("keyvalue: %q: %w", key, err)
	}
	if !found {
		return value, false, nil
	}
	if err := payload.DecodeLenient(data, &value); err != nil {
		return value, true, fmt.Errorf("keyvalue: the value of %q: %w", key, err)
	}
	return value, true, nil
}

// Put stores a value, replacing what was there.
func Put(key string, value any) error {
	data, err := payload.Encode(value)
	if err == nil {
		err = host.Current.Put(key, data)
	}
	if err != nil {
		return fmt.Errorf("keyvalue: %q: %w", key, err)
	}
	return nil
}

// Delete forgets a key, silently when it is not there.
func Delete(key string) error {
	if err := host.Current.Delete(key); err != nil {
		return fmt.Errorf("keyvalue: %q: %w", key, err)
	}
	return nil
}
