module plexspaces

go 1.24
