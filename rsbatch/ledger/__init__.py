"""The ledger: records, their fold, the file on disk, and the writer that makes them durable."""
