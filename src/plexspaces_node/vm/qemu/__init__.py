"""QEMU: an agent in a microVM, with KVM or by emulation."""
