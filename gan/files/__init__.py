"""What is on disk: files written whole, JSON, the run folder and the lock on it, and what git says of the tree.

Nothing here knows how a GAN is trained.
"""
