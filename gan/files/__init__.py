"""What is on disk: atomic files, the run folder, the lock on it, and what git says of the tree.

Nothing here knows of a GAN.
"""
