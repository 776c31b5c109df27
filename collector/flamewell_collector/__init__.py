"""The flamewell collector: takes profiles in, keeps them as Parquet, answers questions."""

__version__ = "0.1.0"
