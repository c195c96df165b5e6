"""`python -m bench race`: which of several training steps is faster, and by how much? It has no verdict."""
