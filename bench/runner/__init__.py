"""A session: cases started under `accelerate launch`, taking turns, collected, and ended."""
