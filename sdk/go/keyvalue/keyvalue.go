// Package keyvalue is a small durable store that belongs to the application.
//
// A value that [Put] has stored without an error survives the actor, its VM and the node. Values are
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
// The error is the store's, or says that the value is not a T; fields that T does not have are
// ignored.
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

// Put stores a value, replacing an existing one.
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

// Delete deletes a key, if it exists.
func Delete(key string) error {
	if err := host.Current.Delete(key); err != nil {
		return fmt.Errorf("keyvalue: %q: %w", key, err)
	}
	return nil
}
