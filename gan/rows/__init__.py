"""The rows of RECIPES, a module for each family of GANs: data only."""
