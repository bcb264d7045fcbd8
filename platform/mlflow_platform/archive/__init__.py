"""Archives: runs, logged models, traces and their artifacts as Parquet files and objects, written before
deletion, verified, and restored.

An archive is whole when its manifest is there, which is written last. See docs/archive.md.
"""
