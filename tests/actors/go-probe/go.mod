module example.com/probe

go 1.25

require plexspaces v0.1.0

replace plexspaces => ../../../sdk/go
