"""A process and its surroundings: exit codes, output, signals, the launcher's request, free memory.

Nothing here knows of a GAN.
"""
