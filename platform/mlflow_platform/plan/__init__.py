"""Desired x observed -> an ordered list of typed changes. Pure: no I/O, no clock, no randomness."""
