"""How anything is timed and run: windows in turns, processes and their messages, memory, this machine.

It knows of no GAN: nothing of `gan` is imported, and torch only when it is needed.
"""
