"""Is HEAD slower than BASE, or does it train something else? Launch pairs, verdict, record, history."""
