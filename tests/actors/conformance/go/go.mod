module example.com/conformance

go 1.24

require plexspaces v0.1.0

replace plexspaces => ../../../../sdk/go
