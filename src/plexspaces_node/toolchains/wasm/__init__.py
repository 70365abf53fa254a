"""WebAssembly files as builds read, wrap and mark them."""
