package host

import (
	"runtime"
	"unsafe"
)

// In a file of its own, and no part of Host: what does not use it does not import it.

//go:wasmimport plexspaces:application/http@0.1.0 fetch
func httpFetch(
	method unsafe.Pointer, methodSize uint32, url unsafe.Pointer, urlSize uint32,
	headers unsafe.Pointer, headersSize uint32, body unsafe.Pointer, bodySize uint32,
	timeoutMillis uint32, result unsafe.Pointer,
)

// Request is an HTTP request.
type Request struct {
	Method, URL string
	Headers     []Header
	Body        []byte
	// For the request and its whole response; 0 for the node's own limits.
	TimeoutMillis uint32
}

// Response is the response to it.
type Response struct {
	Status  int
	Headers []Header
	Body    []byte
}

// Header is one header of either.
type Header struct {
	Name  string
	Value []byte
}

// pair is a header as the canonical ABI lays it out.
type pair struct{ nameAt, nameSize, valueAt, valueSize uint32 }

// Fetch sends a request and waits for its whole response; the error is a *Record.
func Fetch(request Request) (response Response, err error) {
	pairs := make([]pair, len(request.Headers))
	names := make([]unsafe.Pointer, len(pairs))
	for i, header := range request.Headers {
		nameAt, nameSize := text(header.Name)
		valueAt, valueSize := data(header.Value)
		names[i] = nameAt
		pairs[i] = pair{uint32(uintptr(nameAt)), nameSize, uint32(uintptr(valueAt)), valueSize}
	}
	call(func(result unsafe.Pointer) {
		methodAt, methodSize := text(request.Method)
		urlAt, urlSize := text(request.URL)
		bodyAt, bodySize := data(request.Body)
		httpFetch(
			methodAt, methodSize, urlAt, urlSize, unsafe.Pointer(unsafe.SliceData(pairs)), uint32(len(pairs)),
			bodyAt, bodySize, request.TimeoutMillis, result,
		)
	}, func(result *words) {
		if result.failed() {
			err = result.record()
			return
		}
		response.Status = int(uint16(result[1]))
		response.Headers = result.headers(2)
		response.Body = result.bytes(4)
	})
	// The pairs hold places, which do not keep what is there.
	runtime.KeepAlive(request)
	runtime.KeepAlive(names)
	return response, err
}

func (w *words) headers(at int) []Header {
	const size = uint32(unsafe.Sizeof(pair{}))
	headers := make([]Header, w[at+1])
	for i := range headers {
		block := within(w[at]+uint32(i)*size, size)
		one := (*pair)(unsafe.Pointer(unsafe.SliceData(block)))
		headers[i] = Header{string(taken(one.nameAt, one.nameSize)), taken(one.valueAt, one.valueSize)}
	}
	return headers
}
