"""What happened, provably? Event types, hash chain, SQLite store, read-only reader, blob folder."""
