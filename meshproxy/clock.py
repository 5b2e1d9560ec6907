"""The only place of the Python side that reads time. Code that decides takes `now_s` as an argument instead."""

from time import monotonic as monotonic_s
from time import monotonic_ns
from time import time as unix_s

__all__ = ["monotonic_ns", "monotonic_s", "unix_s"]
