"""How good a generator's images are: the feature extractors, and scores of features."""
