// A ledger: typed JSON in and out, state that survives, a durable store, messages to others.
//
// See README.md for what can be sent to it.
package main

import (
	"errors"
	"fmt"
	"log/slog"

	"plexspaces/actor"
	"plexspaces/keyvalue"
)

// Ledger is the actor's state: its exported fields are kept across restarts.
type Ledger struct {
	Balances map[string]int64 `json:"balances"` // cents by account
	Bookings int64            `json:"bookings"` // how many there were
	Watcher  string           `json:"watcher"`  // the application that is told of every booking
}

// Booking moves money; From is empty for a deposit, To for a withdrawal.
type Booking struct {
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
	Cents int64  `json:"cents"`
}

// Validate is called by the SDK on what was read: its error is answered with "bad-payload".
func (b *Booking) Validate() error {
	switch {
	case b.Cents <= 0:
		return fmt.Errorf("cents must be more than 0, not %d", b.Cents)
	case b.From == b.To:
		return errors.New("from and to must differ")
	}
	return nil
}

// Receipt says what was booked, and what is left.
type Receipt struct {
	Number  int64 `json:"number"`
	Balance int64 `json:"balance"`
}

var ledger = actor.Define(
	func() *Ledger { return &Ledger{Balances: map[string]int64{}} },
	actor.Handle("book", (*Ledger).Book),
	actor.Handle("balance", (*Ledger).Balance),
	actor.Handle("accounts", (*Ledger).Accounts),
	actor.Handle("booking", (*Ledger).Booking),
	actor.Handle("watch", (*Ledger).Watch),
	actor.Handle("primes", (*Ledger).Primes),
)

func main() { actor.Serve(ledger) }

// Book makes a booking and answers with the new balance of the account that paid, or was paid.
func (l *Ledger) Book(booking Booking) (Receipt, error) {
	if booking.From != "" {
		held, err := l.Balance(booking.From)
		if err != nil {
			return Receipt{}, err
		}
		if held < booking.Cents {
			// The caller gets this as an error record; the actor and its state live on.
			return Receipt{}, actor.Failf("overdrawn", "%q holds %d cents only", booking.From, held)
		}
	}
	number := l.Bookings + 1
	// Grows without end, so it is not part of the state. Before the state is changed: a booking
	// that cannot be stored did not happen.
	if err := keyvalue.Put(key(number), booking); err != nil {
		return Receipt{}, err
	}
	l.Bookings = number
	account := l.move(booking)
	l.report(booking)
	return Receipt{Number: number, Balance: l.Balances[account]}, nil
}

// Balance answers with what an account holds, in cents.
func (l *Ledger) Balance(account string) (int64, error) {
	held, found := l.Balances[account]
	if !found {
		return 0, actor.Failf("not-found", "no account %q", account)
	}
	return held, nil
}

// Accounts answers with all balances.
func (l *Ledger) Accounts(actor.None) (map[string]int64, error) {
	return l.Balances, nil
}

// Booking answers with a booking made earlier, from the store.
func (l *Ledger) Booking(number int64) (Booking, error) {
	booking, found, err := keyvalue.Get[Booking](key(number))
	if err == nil && !found {
		err = actor.Failf("not-found", "no booking %d", number)
	}
	return booking, err
}

// Watch has an application told of every booking from now on; an empty name ends it.
func (l *Ledger) Watch(application string) (actor.None, error) {
	l.Watcher = application
	return actor.None{}, nil
}

// Primes is real work: how many primes there are up to limit.
func (l *Ledger) Primes(limit int64) (int64, error) {
	var count int64
	for n := int64(2); n <= limit; n++ {
		if isPrime(n) {
			count++
		}
	}
	return count, nil
}

func (l *Ledger) move(booking Booking) string {
	if booking.To != "" {
		l.Balances[booking.To] += booking.Cents
	}
	if booking.From == "" {
		return booking.To
	}
	l.Balances[booking.From] -= booking.Cents
	return booking.From
}

func (l *Ledger) report(booking Booking) {
	slog.Info("booked", "number", l.Bookings, "cents", booking.Cents)
	if l.Watcher == "" {
		return
	}
	// A watcher that is not there must not stop the business.
	if err := actor.Tell(l.Watcher, "booked", booking); err != nil {
		slog.Warn("the watcher was not told", "watcher", l.Watcher, "error", err)
	}
}

func key(number int64) string { return fmt.Sprintf("booking/%d", number) }

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
