"""Memory growth that is a leak, told from growth that is none (pure)."""
