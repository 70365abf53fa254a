"""Who may do what: identities, the policy, the gate before every call, and the audit log."""
