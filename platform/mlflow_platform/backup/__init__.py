"""Backup and restore of a whole platform: one moment of its databases, and every object that was there.

`create` writes, `verify` and `drill` prove, `restore` brings back; docs/backup.md tells how, and what for.
"""
