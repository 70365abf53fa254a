"""What drivers need of this computer: processes, users, KVM."""
