"""The program inside a Vm: it hosts the WebAssembly runtime and runs one application.

Imports only the standard library, wasmtime, msgspec, `errors`, `model` and `wire.link`: whatever
it imports must be in the guest image, and is paid for at every boot.
"""
