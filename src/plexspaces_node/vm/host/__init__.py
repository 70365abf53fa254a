"""What drivers need from the host: processes, users, KVM."""
