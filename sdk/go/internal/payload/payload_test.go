package payload

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
)

type point struct {
	X int `json:"x"`
	Y int `json:"y,omitempty"`
}

func TestEachTypeHasItsForm(t *testing.T) {
	for _, c := range []struct {
		value any
		data  string
	}{
		{[]byte("\x00\xff"), "\x00\xff"},
		{"größe <&>", "größe <&>"},
		{struct{}{}, ""},
		{7, "7"},
		{"", ""},
		{1.5, "1.5"},
		{true, "true"},
		{point{1, 2}, `{"x":1,"y":2}`},
		{[]point{{X: 1}}, `[{"x":1}]`},
		{map[string]string{"a": "<&>"}, `{"a":"<&>"}`},
		{json.RawMessage(`[1]`), `[1]`},
	} {
		data, err := Encode(c.value)
		if err != nil || string(data) != c.data {
			t.Errorf("Encode(%#v) = %q, %v, want %q", c.value, data, err, c.data)
		}
		back := reflect.New(reflect.TypeOf(c.value))
		if err := Decode(data, back.Interface()); err != nil {
			t.Errorf("Decode(%q): %v", data, err)
		}
		if got := back.Elem().Interface(); !reflect.DeepEqual(got, c.value) {
			t.Errorf("Decode(%q) = %#v, want %#v", data, got, c.value)
		}
	}
}

func TestNilIsEmptyAndEmptyIsANilPointer(t *testing.T) {
	data, err := Encode(nil)
	if err != nil || len(data) != 0 {
		t.Errorf("Encode(nil) = %q, %v", data, err)
	}
	into := &point{}
	if err := Decode([]byte("null"), &into); err != nil || into != nil {
		t.Errorf("null = %v, %v", into, err)
	}
	if err := Decode(nil, &into); err != nil || into != nil {
		t.Errorf("empty = %v, %v", into, err)
	}
}

func TestWhatDoesNotFitIsRefusedInWords(t *testing.T) {
	for _, c := range []struct {
		data string
		into any
		want string
	}{
		{"\xff", new(string), "not UTF-8"},
		{"", new(int), "the payload is empty"},
		{" ", new(point), "the payload is empty"},
		{"{x", new(point), "not JSON: invalid character 'x'"},
		{`{"x":`, new(point), "not JSON: unexpected EOF"},
		{"1 2", new(int), "not JSON: something follows"},
		{`"a"`, new(int), "cannot unmarshal string into Go value of type int"},
		{`{"x":"a"}`, new(point), "cannot unmarshal string into Go struct field point.x of type int"},
		{`{"x":1,"z":2}`, new(point), `unknown field "z"`},
		{strings.Repeat("[", 201), new(any), "JSON nested deeper than 200 levels"},
		{`{"a":` + strings.Repeat("[", 200), new(any), "JSON nested deeper"},
	} {
		err := Decode([]byte(c.data), c.into)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("Decode(%.20q) = %v, want %s", c.data, err, c.want)
		}
	}
}

func TestUnknownFieldsArePassedOverWhereAskedFor(t *testing.T) {
	var into point
	if err := DecodeLenient([]byte(`{"x":1,"z":2}`), &into); err != nil || into.X != 1 {
		t.Errorf("%v, %v", into, err)
	}
}

func TestBracketsInTextsAreNoDepth(t *testing.T) {
	for _, text := range []string{strings.Repeat("[", 500), strings.Repeat(`\"[`, 500), `\\`} {
		data := []byte(`["` + text + `",` + strings.Repeat("[", 199) + strings.Repeat("]", 199) + "]")
		if err := Decode(data, new(any)); err != nil {
			t.Errorf("%.20q: %v", data, err)
		}
	}
}

func TestWhatJSONCannotSayIsRefused(t *testing.T) {
	for _, value := range []any{math.NaN(), make(chan int), func() {}} {
		if data, err := Encode(value); err == nil {
			t.Errorf("Encode(%v) = %q", value, data)
		}
	}
}

func FuzzDecodeNeverPanics(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"x":1}`, `[[[`, `"\u00`, "\xff", "1e999", `{"x":{"x":`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var raw []byte
		if err := Decode(data, &raw); err != nil || !bytes.Equal(raw, data) {
			t.Errorf("bytes: %q, %v", raw, err)
		}
		for _, into := range []any{new(string), new(int), new(point), new(any), new(map[string]*point)} {
			_ = Decode(data, into)
		}
	})
}
