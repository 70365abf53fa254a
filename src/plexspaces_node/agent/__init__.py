"""The program inside a Vm: it hosts the WebAssembly runtime and runs one application.

What serves imports only the smallest modules of the standard library, wasmtime's C library,
`errors`, `artifact` and `wire.link`: whatever it imports must be in the guest image, and is paid
for at every boot. Not even `typing`, `re`, `dataclasses` or `pathlib`: a test holds it to that.
The program that compiles artifacts, `compile`, is run by the node and free of this.
"""
