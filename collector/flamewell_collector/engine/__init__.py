"""Query engines: SQL by DuckDB over profiles, sums of samples by NumPy, blocks and head alike."""

from flamewell_collector.engine.scan import (
    Columns,
    Engine,
    Scan,
    ServiceSums,
    StackSums,
    Statement,
    Sums,
)

__all__ = ["Columns", "Engine", "Scan", "ServiceSums", "StackSums", "Statement", "Sums"]
