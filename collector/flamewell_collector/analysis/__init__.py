"""Pure analysis: arrays in, arrays out; no I/O, no clock, no web."""
