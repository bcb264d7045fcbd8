"""Moving in: another tracking server's data into this platform, with its ids.

Every source becomes an SQLite database of the present schema (`sqlite`, `filestore`, `remote`); from there on
there is one way: `homes` decides where things go, `artifacts` copies, `loading` writes the rows, `move` does
all of it in order.
"""
