package outgoing

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"plexspaces/actor"
	"plexspaces/internal/host"
)

func init() {
	// It stays what it is: programs take it for an *http.Transport.
	transport := http.DefaultTransport.(*http.Transport)
	transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	transport.RegisterProtocol("http", Transport{})
	transport.RegisterProtocol("https", Transport{})
}

func roundTrip(request *http.Request) (*http.Response, error) {
	body, err := bodyOf(request)
	if err != nil {
		return nil, err
	}
	milliseconds, err := left(request.Context())
	if err != nil {
		return nil, err
	}
	url := *request.URL
	url.User, url.Fragment, url.RawFragment = nil, "", ""
	sent := host.Request{Method: request.Method, URL: url.String(), Body: body, TimeoutMillis: milliseconds}
	if sent.Method == "" {
		sent.Method = http.MethodGet
	}
	for name, values := range request.Header {
		for _, value := range values {
			sent.Headers = append(sent.Headers, host.Header{Name: name, Value: []byte(value)})
		}
	}
	received, err := host.Fetch(sent)
	if err != nil {
		return nil, failed(err, milliseconds > 0)
	}
	return responseTo(request, received), nil
}

func bodyOf(request *http.Request) ([]byte, error) {
	if request.Body == nil {
		return nil, nil
	}
	defer request.Body.Close()
	return io.ReadAll(request.Body)
}

// left returns how long a request may take, and 0 if its context does not say.
func left(within context.Context) (uint32, error) {
	if err := within.Err(); err != nil {
		return 0, err
	}
	deadline, limited := within.Deadline()
	if !limited {
		return 0, nil
	}
	milliseconds := time.Until(deadline).Milliseconds()
	if milliseconds <= 0 {
		return 0, context.DeadlineExceeded
	}
	return uint32(min(milliseconds, math.MaxUint32)), nil
}

func failed(err error, limited bool) error {
	var record *host.Record
	if !errors.As(err, &record) {
		return err
	}
	if limited && record.Code == "http-response-timeout" {
		return context.DeadlineExceeded
	}
	return (*actor.Failure)(record)
}

func responseTo(request *http.Request, received host.Response) *http.Response {
	header := http.Header{}
	for _, pair := range received.Headers {
		header.Add(pair.Name, string(pair.Value))
	}
	length := int64(len(received.Body))
	if request.Method == http.MethodHead {
		length = -1
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", received.Status, http.StatusText(received.Status)),
		StatusCode:    received.Status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          io.NopCloser(bytes.NewReader(received.Body)),
		ContentLength: length,
		Request:       request,
	}
}
