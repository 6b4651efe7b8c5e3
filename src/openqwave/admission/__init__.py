"""Who may have what: marks by policy, rights, quotas. Pure."""
