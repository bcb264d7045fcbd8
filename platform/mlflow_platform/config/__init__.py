"""YAML to documents and objects, with the place of every field kept for messages."""
