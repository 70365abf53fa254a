// A WASI command: a plain program that is started once for every message.
//
// The payload is on standard input, the reply goes to standard output, and what is written to
// standard error is the application's log. The type of the message and the name of the
// application that sent it are in the environment. There is no SDK, and no state: the next
// message finds a new process.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// Any status but 0 makes the message fail; the caller is told what was logged last.
const statusFailed = 2

const knownTypes = "echo, primes"

func main() {
	messageType := os.Getenv("PLEXSPACES_MESSAGE_TYPE")
	if err := handle(messageType, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(statusFailed)
	}
}

func handle(messageType string, in io.Reader, out io.Writer) error {
	switch messageType {
	case "echo":
		_, err := io.Copy(out, in)
		return err
	case "primes":
		return primes(in, out)
	default:
		return fmt.Errorf("unknown message type %q; known types: %s", messageType, knownTypes)
	}
}

func primes(in io.Reader, out io.Writer) error {
	payload, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	limit, err := parseLimit(payload)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(out, countPrimes(limit))
	return err
}

func parseLimit(payload []byte) (int64, error) {
	text := string(bytes.TrimSpace(payload))
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the payload must be a limit in decimal digits: %w", errors.Unwrap(err))
	}
	return limit, nil
}

func countPrimes(limit int64) int64 {
	var count int64
	for n := int64(2); n <= limit; n++ {
		if isPrime(n) {
			count++
		}
	}
	return count
}

// Trial division by 2 and the odd numbers, as in every example of `plexspaces run`.
func isPrime(n int64) bool {
	if n%2 == 0 {
		return n == 2
	}
	for d := int64(3); d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}
