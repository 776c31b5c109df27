"""What lies in the heap of a Python process, counted from outside: no stop, no code in it."""
