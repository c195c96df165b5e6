"""The training core: GAN recipes, one step, one loop."""

__version__ = "0.1.0"
