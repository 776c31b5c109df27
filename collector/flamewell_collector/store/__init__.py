"""Durable storage: WAL, in-memory head, Parquet blocks, catalog."""
