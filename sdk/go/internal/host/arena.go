package host

import "strconv"

const (
	// What a message has beside its payload: the name of its sender and its type.
	besides = 64 << 10
	// The least that is handed over in one piece, whatever the node says.
	least = 4 << 20
)

// arenaSizes returns how long the block for what the host hands over must be: to begin with, when
// the state of the instance comes, and from then on, for messages. getenv tells the longest message
// of the node and the length of that state. Messages get no more than an eighth of the memory, of
// which memoryLimit is three quarters.
func arenaSizes(getenv func(string) string, memoryLimit int64) (first, then int) {
	number := func(name string) int {
		value, err := strconv.Atoi(getenv(name))
		if err != nil || value < 0 {
			return 0
		}
		return value
	}
	message := int64(number("PLEXSPACES_MESSAGE_LIMIT")) + besides
	then = max(least, int(min(message, memoryLimit/6)))
	return max(then, number("PLEXSPACES_STATE_BYTES")+besides), then
}
