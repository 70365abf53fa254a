package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestPrimesAreCounted(t *testing.T) {
	for limit, want := range map[string]string{
		"0": "0", "1": "0", "2": "1", "10": "4", "1000\n": "168", "-5": "0",
	} {
		var out bytes.Buffer
		if err := handle("primes", strings.NewReader(limit), &out); err != nil {
			t.Fatalf("primes %q: %v", limit, err)
		}
		if out.String() != want {
			t.Errorf("primes %q = %q, want %q", limit, out.String(), want)
		}
	}
}

func TestEchoAnswersEveryByteAsItCame(t *testing.T) {
	payload := make([]byte, 256)
	for i := range payload {
		payload[i] = byte(i)
	}
	var out bytes.Buffer
	if err := handle("echo", bytes.NewReader(payload), &out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), payload) {
		t.Errorf("echo = %v", out.Bytes())
	}
}

func TestWhatCannotBeHandledIsAnError(t *testing.T) {
	for _, c := range []struct{ messageType, payload, want string }{
		{"sum", "", "known types: echo, primes"},
		{"primes", "many", "decimal digits"},
		{"primes", "99999999999999999999", "decimal digits"},
	} {
		var out bytes.Buffer
		err := handle(c.messageType, strings.NewReader(c.payload), &out)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: error %v, want %q", c.messageType, c.payload, err, c.want)
		}
		if out.Len() != 0 {
			t.Errorf("%s %q: wrote %q", c.messageType, c.payload, out.String())
		}
	}
}
