"""A GAN of fully connected layers that draws discs."""
