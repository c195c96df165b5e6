"""The methods that GAN variants differ in: losses, penalties, augmentations, schedules.

They are pure functions and frozen dataclasses.
"""
