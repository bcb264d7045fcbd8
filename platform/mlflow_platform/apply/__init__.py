"""A plan becomes calls: bounded, ordered, retried by error type."""
