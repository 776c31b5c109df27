"""What reads a target: one module a source, each behind a one-method seam."""
