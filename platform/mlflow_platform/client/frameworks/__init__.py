"""Frameworks that programs are written with: each module imports its own, and only where it is used."""
