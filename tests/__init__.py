"""Tests mirror the package: tests/<package>/test_<file>.py. `support` and `peers` are what they stand on."""
