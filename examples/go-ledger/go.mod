module example.com/go-ledger

go 1.24

require plexspaces v0.1.0

// In a project of your own, `plexspaces new go` puts the SDK beside go.mod.
replace plexspaces => ../../sdk/go
