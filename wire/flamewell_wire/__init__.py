"""What agent and collector share: names on the wire, profile types, the pprof schema. No logic."""
