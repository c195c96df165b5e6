"""How good a generator's images are: the feature extractors, scores of features, D's probabilities."""
