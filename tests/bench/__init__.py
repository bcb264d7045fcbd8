"""Benchmarks: one command each, printing ratios that were measured side by side in one run."""
