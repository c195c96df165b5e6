"""The results file: its records, its schema, and figures computed from raw windows."""
