"""The flamewell agent: finds processes, samples them inside a budget, ships what it saw."""

__version__ = "0.1.0"
