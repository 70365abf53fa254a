module example.com/__NAME__

go 1.24

require plexspaces v0.1.0

// The SDK, as this version of the node came with it.
replace plexspaces => ./plexspaces
