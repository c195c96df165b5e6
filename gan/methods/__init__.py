"""What makes one GAN another: losses, penalties, augmentations, schedules.

Pure functions and frozen dataclasses.
"""
