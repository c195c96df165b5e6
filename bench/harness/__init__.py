"""How anything is timed and run: windows in turns, processes and their messages.

Knows of no GAN: nothing of `gan` is imported.
"""
