//go:build !wasip1

package actor

import (
	"fmt"
	"os"
)

// Serve makes the actor the application. Call it in main: in a component it returns at once and
// main goes on to its end; outside of one it only says how to run the actor.
func Serve[S any](*Definition[S]) {
	fmt.Fprintln(os.Stderr, "an actor runs on a node: plexspaces build, then plexspaces deploy .")
	os.Exit(2)
}
