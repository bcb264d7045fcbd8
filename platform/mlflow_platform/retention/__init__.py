"""Retention: old data is chosen by rules, quarantined, and purged so that nothing is half gone.

Rows go first, in one transaction that writes where their objects are into a journal; then the objects go,
from the journal. docs/retention.md tells it as a whole.
"""
