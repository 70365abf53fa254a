// Empty: a package with an assembly file may declare functions that others define.
