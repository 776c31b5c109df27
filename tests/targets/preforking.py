"""Starts two workers as servers and pools do, and waits: fork, spawn, forkserver, title, deep."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path


def wait():
    time.sleep(3600)


def set_title(title):
    """Write over the arguments, as the setproctitle package does."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    ctypes.memmove(start, title.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)


def titled_worker():
    set_title("gunicorn: worker [shop.wsgi:app]")
    wait()


def deep(levels):
    """A chain of processes whose arguments name no program."""
    while levels and not os.fork():
        levels -= 1
    if not levels:
        subprocess.call([sys.executable, "-c", "import time; time.sleep(3600)"])
    wait()


if __name__ == "__main__":
    mode = sys.argv[1]
    if mode == "deep":
        deep(3)
    target = titled_worker if mode == "title" else wait
    context = multiprocessing.get_context("fork" if mode == "title" else mode)
    for _ in range(2):
        context.Process(target=target, daemon=True).start()
    if mode == "title":
        set_title("gunicorn: master [shop.wsgi:app]")
    wait()
