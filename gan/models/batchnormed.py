"""What the families share whose networks have BatchNorm whatever their settings are."""


class BatchNormed:
    """A specification of networks with BatchNorm; the first and the last layer of G have a weight and a bias."""

    @property
    def batchnorm(self) -> bool:
        """True: a network has BatchNorm layers."""
        return True

    @property
    def min_generator_tensors(self) -> int:
        """Weight and bias of the first and the last layer."""
        return 4
