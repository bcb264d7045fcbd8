"""The operator: documents that live in a cluster, kept true on their tracking servers.

A level-based loop over the one engine: `cache` knows what is declared, `judging` decides which documents may
be carried out, `reconciling` plans and carries out, `publishing` says in conditions and Events what became of
them. `election` sees to it that one replica writes.
"""
