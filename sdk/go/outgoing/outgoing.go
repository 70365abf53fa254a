// Package outgoing makes net/http send its requests through the node.
//
// "plexspaces build" adds it to every actor that uses net/http, so that http.Get, http.Client and
// http.DefaultTransport work as they are. A transport of one's own is
//
//	client := &http.Client{Transport: outgoing.Transport{}}
//
// The node sends requests only to hosts that "plexspaces deploy --allow-host" names. An error is an
// [*actor.Failure] within the *url.Error of the client; its code is the name of an error-code of
// wasi:http, such as "http-request-denied".
//
// A response comes with its whole body. Nothing else runs while a request is under way: goroutines
// wait for each other's requests.
//
// Outside of a component, in tests, nothing changes: net/http has the network.
package outgoing

import "net/http"

// Transport is an [http.RoundTripper] that sends requests through the node; outside of a component
// it is [http.DefaultTransport].
type Transport struct{}

// RoundTrip sends one request, with the deadline of its context.
func (Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	return roundTrip(request)
}
