"""Settings of optimizers; schedules in them follow images seen."""

from dataclasses import dataclass
from typing import Any

from gan.methods.schedules import Scheduled, at, changes


@dataclass(frozen=True)
class Adam:
    """Adam's settings (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1).

    >>> Adam(learning_rate=2e-4, betas=(0.5, 0.999)).after(0)
    {'lr': 0.0002, 'betas': (0.5, 0.999), 'eps': 1e-08}
    """

    learning_rate: Scheduled
    betas: tuple[float, Scheduled]
    eps: float = 1e-8

    def after(self, images_seen: int, correction: float = 1.0) -> dict[str, Any]:
        """Return `torch.optim.Adam`'s arguments after so many images; for `correction` see `gan.methods.lazy`."""
        betas = (self.betas[0] ** correction, at(self.betas[1], images_seen) ** correction)
        return {"lr": at(self.learning_rate, images_seen) * correction, "betas": betas, "eps": self.eps}

    @property
    def scheduled(self) -> bool:
        """Whether a setting changes with images seen."""
        return changes(self.learning_rate) or changes(self.betas[1])


@dataclass(frozen=True)
class RMSprop:
    """RMSprop's settings (Tieleman and Hinton 2012, lecture 6.5)."""

    learning_rate: Scheduled
    alpha: float = 0.99
    eps: float = 1e-8

    def after(self, images_seen: int, correction: float = 1.0) -> dict[str, Any]:
        """Return `torch.optim.RMSprop`'s arguments, as those of Adam."""
        learning_rate = at(self.learning_rate, images_seen) * correction
        return {"lr": learning_rate, "alpha": self.alpha**correction, "eps": self.eps}

    @property
    def scheduled(self) -> bool:
        """Whether a setting changes with images seen."""
        return changes(self.learning_rate)
