package actor

import "fmt"

// A Failure is an error record: return it to answer with it; [Ask] and [Tell] return the other application's.
type Failure struct {
	// Code is short and stable, for programs: "not-found", "overdrawn".
	Code string
	// Message is for people.
	Message string
	// Retryable says whether the same message may succeed later.
	Retryable bool
}

// Failf returns a failure with a formatted message, for which a retry would not help.
func Failf(code, format string, arguments ...any) *Failure {
	return &Failure{Code: code, Message: fmt.Sprintf(format, arguments...)}
}

func (f *Failure) Error() string {
	if f.Message == "" {
		return f.Code
	}
	return f.Code + ": " + f.Message
}
