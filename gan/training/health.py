"""Is this run sick? Alarms from the losses that a run records anyway, and from how much its images differ.

The limits are those that no healthy run of the recipes here came near; docs/stability.md says what was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gan.methods.losses import AdversarialLoss

BASELINE_FROM = 100
BASELINE_STEPS = 200
WINDOW = 200
SPIKE_STEPS = 20
SATURATION_LIMIT = 1e-3
SPIKE_LIMIT = 10.0
UNSTEADY_LIMIT = 1.6
DIVERSITY_FROM = 300
"""Steps after which G's images are judged. Before, they tell of its first weights: most MLPs begin with images
that are nearly alike, and mlp-dropout with some that differ more than its later ones."""
DIVERSITY_LIMIT = 1e-3
DIVERSITY_FALL = 0.1
DIVERSE = 0.1
LEAST_REAL_DIVERSITY = 1e-7
"""Of real images; one level of grey in one pixel of one of 64 makes 1e-6."""
PLAYERS = ("discriminator", "generator")
"""In the order of their losses in a row of METRICS."""


@dataclass(frozen=True)
class Alarm:
    """What is wrong.

    Attributes:
        kind: A key of ADVICE.
        network: discriminator or generator.
        step: When it was seen.
        finding: What was seen, with its number.
    """

    kind: str
    network: str
    step: int
    finding: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.network}: {self.finding}; {ADVICE[self.kind]}"


ADVICE = {
    "saturated": "it tells real from generated at no cost and G learns little: weaken D (a lower learning rate, "
    "label smoothing, a penalty) or show it less (--augment)",
    "unsteady": "it is thrown about instead of settling: lower the learning rate",
    "spike": "the networks may be running away from each other: lower the learning rate, or add a penalty",
    "collapse": "G shows nearly the same image for every latent: lower the learning rate, add a penalty to D, or "
    "begin again with another --seed",
}


class Health:
    """Watches a run's losses on the host, at the points at which they are read anyway.

    Each kind of alarm is raised once a network and run. `real_diversity` is the `diversity` of real images, once
    known.
    """

    def __init__(self, loss: AdversarialLoss) -> None:
        self.baseline: list[float] | None = None
        self.raised: set[tuple[str, str]] = set()
        self.step = 0
        self.real_diversity: float | None = None
        self.best_diversity = 0.0
        self._recent = torch.empty(0, len(PLAYERS))
        self._first: list[Tensor] = []
        self._after_baseline = 0
        self._lowest, self._undecided = loss_range(loss)
        self._bounded = bounded(loss)

    def watch(self, history: Tensor, step: int) -> list[Alarm]:
        """Look at the steps since the last call and return new alarms.

        Args:
            history: METRICS of the last steps, shape (n, 4), on the host.
            step: The number of the last of them.
        """
        rows = history[max(0, len(history) - (step - self.step)) :, : len(PLAYERS)]
        self.step = step
        self._after_baseline += self._beyond_baseline(rows)
        rows = torch.cat([self._recent, rows])
        self._recent = rows[-WINDOW:]
        return self._new([*self._of_window(), *self._spikes(rows[max(0, len(rows) - self._after_baseline) :])])

    def watch_diversity(self, ratio: float | None, step: int) -> list[Alarm]:
        """Return an alarm where generated images have come to differ too little from one another.

        A generator may begin with images that are much alike, and most MLPs do.

        Args:
            ratio: Of `diversity`: theirs over the real images'; None where those are all alike.
            step: The number of the last step.
        """
        if ratio is None or step < DIVERSITY_FROM:
            return []
        self.best_diversity = max(self.best_diversity, ratio)
        fallen = self.best_diversity >= DIVERSE and ratio < DIVERSITY_FALL * self.best_diversity
        if ratio >= DIVERSITY_LIMIT and not fallen:
            return []
        finding = f"its images differ from one another by {ratio:.1%} of what real ones do"
        return self._new([Alarm("collapse", "generator", step, finding)])

    def _new(self, alarms: list[Alarm]) -> list[Alarm]:
        new = {(alarm.kind, alarm.network): alarm for alarm in reversed(alarms)}
        new = {key: alarm for key, alarm in new.items() if key not in self.raised}
        self.raised |= new.keys()
        return list(new.values())

    def _beyond_baseline(self, rows: Tensor) -> int:
        """Keep the 95th percentile of each loss's size over the first steps, and never change it again.

        Return how many of the rows come after them.
        """
        if self.baseline is not None:
            return len(rows)
        self._first.append(rows)
        first = torch.cat(self._first)
        beyond = len(first) - BASELINE_FROM - BASELINE_STEPS
        if beyond >= 0:
            window = first[BASELINE_FROM:][:BASELINE_STEPS].abs()
            self.baseline = window.quantile(0.95, dim=0).tolist()
            self._first = []
        return max(0, beyond)

    def _of_window(self) -> list[Alarm]:
        """Judge D's loss over the last steps, where an undecided D's is known."""
        if self._undecided <= self._lowest or len(self._recent) < WINDOW:
            return []
        relative = (self._recent[:, 0] - self._lowest) / (self._undecided - self._lowest)
        highest = float(relative.quantile(0.95))
        if highest < SATURATION_LIMIT:
            finding = f"saturated, its loss below {highest:.2%} of an undecided one's for {WINDOW} steps"
            return [Alarm("saturated", "discriminator", self.step, finding)]
        if highest > UNSTEADY_LIMIT and self._after_baseline >= WINDOW // 2:
            finding = f"worse than an undecided one, by {highest - 1:.0%} or more in a twentieth of {WINDOW} steps"
            return [Alarm("unsteady", "discriminator", self.step, finding)]
        return []

    def _spikes(self, rows: Tensor) -> list[Alarm]:
        if self.baseline is None or len(rows) < SPIKE_STEPS:
            return []
        medians = rows.abs().unfold(0, SPIKE_STEPS, 1).median(-1).values
        times = medians.amax(0) / torch.tensor(self.baseline).clamp(min=1e-6)
        return [
            Alarm("spike", player, self.step, f"its loss stayed at {ratio:.0f} times its first steps' for a while")
            for player, ratio, is_bounded in zip(PLAYERS, times.tolist(), self._bounded, strict=True)
            if is_bounded and ratio > SPIKE_LIMIT
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {
            "baseline": self.baseline,
            "best_diversity": self.best_diversity,
            "raised": sorted(self.raised),
            "step": self.step,
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """Take over what `to_json` returned."""
        self.baseline = data["baseline"]
        self.raised = {(kind, network) for kind, network in data["raised"]}
        self.step = data["step"]
        self.best_diversity = data["best_diversity"]
        self._recent, self._first, self._after_baseline = self._recent[:0], [], 0


def loss_range(loss: AdversarialLoss) -> tuple[float, float]:
    """Return D's least loss, and its loss when it is undecided (logits of 0); both are 0 for a critic.

    The least is looked for on a grid of logits from -20 to 20.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    undecided = float(loss.discriminator(zero, zero))
    lowest = float(loss.discriminator(*_logits()).min())
    return (lowest, undecided) if lowest >= 0 else (0.0, 0.0)


def bounded(loss: AdversarialLoss) -> tuple[bool, bool]:
    """Say whether D's and G's losses are never below 0. The size of others, a critic's scores, is arbitrary."""
    real, fake = _logits()
    return float(loss.discriminator(real, fake).min()) >= 0, float(loss.generator(fake, real).min()) >= 0


def _logits() -> tuple[Tensor, Tensor]:
    grid = torch.linspace(-20, 20, 801, dtype=torch.float64)
    real, fake = torch.meshgrid(grid, grid, indexing="ij")
    return real.flatten(), fake.flatten()


def diversity(images: Tensor) -> float:
    """Return how much images (B, C, H, W) differ from one another: their variance, summed over pixels."""
    return float(images.cpu().double().var(0, correction=0).sum())
