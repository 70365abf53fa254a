// Package payload turns bytes into typed values and back: the table in the documentation of
// plexspaces/actor. It knows nothing of actors or of the host.
package payload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// MaxDepth is how deep JSON may be nested. The stack of a component is small: from about 1,500
// levels on, reading would end the instance instead of returning an error.
const MaxDepth = 200

// Encode returns the bytes of a value; nil is empty.
func Encode(value any) ([]byte, error) {
	switch value := value.(type) {
	case nil, struct{}:
		return nil, nil
	case []byte:
		return value, nil
	case string:
		return []byte(value), nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, readable(err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Decode reads data into what the pointer points to; unknown fields of JSON objects are refused.
func Decode(data []byte, into any) error { return decode(data, into, true) }

// DecodeLenient reads data into what the pointer points to, passing unknown fields over.
func DecodeLenient(data []byte, into any) error { return decode(data, into, false) }

func decode(data []byte, into any, strict bool) error {
	switch into := into.(type) {
	case *[]byte:
		*into = data
		return nil
	case *string:
		if !utf8.Valid(data) {
			return errors.New("not UTF-8")
		}
		*into = string(data)
		return nil
	case *struct{}:
		return nil
	}
	if len(bytes.TrimSpace(data)) == 0 {
		if reflect.TypeOf(into).Elem().Kind() == reflect.Pointer {
			return nil
		}
		return errors.New("the payload is empty; JSON was expected")
	}
	if tooDeep(data) {
		return fmt.Errorf("JSON nested deeper than %d levels", MaxDepth)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if strict {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(into); err != nil {
		return readable(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("not JSON: something follows the value")
	}
	return nil
}

func tooDeep(data []byte) bool {
	depth, inText := 0, false
	for i := 0; i < len(data); i++ {
		switch letter := data[i]; {
		case letter == '"':
			inText = !inText
		case inText:
			if letter == '\\' {
				i++
			}
		case letter == '[' || letter == '{':
			if depth++; depth > MaxDepth {
				return true
			}
		case letter == ']' || letter == '}':
			depth--
		}
	}
	return false
}

func readable(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("not JSON: " + err.Error())
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}
