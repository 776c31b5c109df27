"""Query engines: one SQL text a question, run by DuckDB over Parquet blocks and the Arrow head."""

from flamewell_collector.engine.scan import Columns, Engine, Scan, Statement, Sums

__all__ = ["Columns", "Engine", "Scan", "Statement", "Sums"]
