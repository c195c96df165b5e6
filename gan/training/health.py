"""Is a run healthy? Alarms from its losses, which are recorded anyway, and from how much its images differ.

The adversarial losses are judged, without what else a recipe adds to them: a penalty or the cross-entropy of ten
classes says nothing of whether D tells real images from generated ones.

No healthy run of the recipes came near the limits below; docs/stability.md has the measurements.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gan.methods.losses import AdversarialLoss
from gan.training.metrics import adversarial_losses

BASELINE_FIRST_STEP = 100
"""Steps before the baseline of the losses."""
BASELINE_STEPS = 200
"""Steps of the baseline."""
RECENT_STEPS = 200
"""Last steps that are judged as saturated or unsteady."""
SPIKE_STEPS = 20
"""Steps over whose median a loss spikes."""
SATURATION_LIMIT = 1e-3
"""D is saturated if its adversarial loss is below this multiple of that at chance level."""
UNSTEADY_LIMIT = 1.6
"""D is unsteady if its adversarial loss is above this multiple of that at chance level."""
SPIKE_LIMIT = 10.0
"""An adversarial loss spikes if it is above this multiple of its baseline."""
DIVERSITY_FIRST_STEP = 300
"""The first step at which G's images are judged. Before it, they show G's first weights: most MLPs begin with
images that are nearly alike, and mlp-dropout begins with images that differ more than its later ones."""
DIVERSITY_LIMIT = 1e-3
"""G has collapsed if the `diversity` of its images is below this multiple of that of real images."""
DIVERSE = 0.1
"""G's images were diverse once if their `diversity` was at least this multiple of that of real images."""
DIVERSITY_FALL = 0.1
"""G has collapsed, too, if its images were diverse once and fall below this multiple of their highest value."""
LEAST_REAL_DIVERSITY = 1e-7
"""Real images of less `diversity` count as all alike; one level of grey in one pixel of one of 64 makes 1e-6."""
PLAYERS = ("discriminator", "generator")
"""The two networks, in the order of their losses in METRICS and ADVERSARIAL."""


@dataclass(frozen=True)
class Alarm:
    """A sign of ill health.

    Attributes:
        kind: A key of ADVICE.
        network: One of PLAYERS.
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
    "unsteady": "its loss swings instead of settling: lower the learning rate",
    "spike": "the networks may be running away from each other: lower the learning rate, or add a penalty",
    "collapse": "G shows nearly the same image for every latent: lower the learning rate, add a penalty to D, or "
    "begin again with another --seed",
}


class Health:
    """Watches a run's losses on the host, at the points at which they are read anyway.

    Each kind of alarm is raised once per network and run.

    Attributes:
        raised: Kind and network of the alarms so far.
        baseline: For D and G, the 95th percentile of the size of the adversarial loss over the steps of the
            baseline; None until they are over.
        real_diversity: The `diversity` of real images; None until it is measured.
        best_diversity: G's highest `diversity` so far, as a multiple of that of real images.
        step: The last step that was watched.
    """

    def __init__(self, loss: AdversarialLoss, *, apart: bool = False) -> None:
        """Watch from the first step on.

        Args:
            loss: The recipe's.
            apart: Whether a loss has other terms, so that the adversarial ones are recorded apart.
        """
        self.raised: set[tuple[str, str]] = set()
        self.baseline: list[float] | None = None
        self.real_diversity: float | None = None
        self.best_diversity = 0.0
        self.step = 0
        self._apart = apart
        self._recent = torch.empty(0, len(PLAYERS))
        self._first: list[Tensor] = []
        self._steps_after_baseline = 0
        self._lowest, self._at_chance_level = loss_range(loss)
        self._never_negative = never_negative(loss)

    def watch(self, history: Tensor, step: int) -> list[Alarm]:
        """Look at the steps since the last call and return new alarms.

        Args:
            history: What `metrics_of` names, of the last steps, shape (n, columns), on the host.
            step: The number of the last of them.
        """
        rows = adversarial_losses(history)[max(0, len(history) - (step - self.step)) :]
        rows = rows[rows.isfinite().all(1)]  # an older version did not record them apart
        self.step = step
        self._steps_after_baseline += self._extend_baseline(rows)
        rows = torch.cat([self._recent, rows])
        self._recent = rows[-RECENT_STEPS:]
        after_baseline = rows[max(0, len(rows) - self._steps_after_baseline) :]
        return self._new([*self._judge_recent(), *self._spikes(after_baseline)])

    def watch_diversity(self, ratio: float | None, step: int) -> list[Alarm]:
        """Return an alarm if generated images differ too little from one another.

        A generator may begin with images that are much alike, as most MLPs do.

        Args:
            ratio: The `diversity` of generated images as a multiple of that of real ones; None if the real ones
                are all alike.
            step: The number of the last step.
        """
        if ratio is None or step < DIVERSITY_FIRST_STEP:
            return []
        self.best_diversity = max(self.best_diversity, ratio)
        has_fallen = self.best_diversity >= DIVERSE and ratio < DIVERSITY_FALL * self.best_diversity
        if ratio >= DIVERSITY_LIMIT and not has_fallen:
            return []
        finding = f"its images differ from one another by {ratio:.1%} of what real ones do"
        return self._new([Alarm("collapse", "generator", step, finding)])

    def _new(self, alarms: list[Alarm]) -> list[Alarm]:
        """Return the first alarm of each kind and network that was not raised before, and note it as raised."""
        first = {(alarm.kind, alarm.network): alarm for alarm in reversed(alarms)}
        new = {key: alarm for key, alarm in first.items() if key not in self.raised}
        self.raised |= new.keys()
        return list(new.values())

    def _extend_baseline(self, rows: Tensor) -> int:
        """Collect the first steps until the baseline can be computed, which then stays.

        Returns:
            How many of the rows are later than the baseline's steps.
        """
        if self.baseline is not None:
            return len(rows)
        self._first.append(rows)
        first = torch.cat(self._first)
        num_later = len(first) - BASELINE_FIRST_STEP - BASELINE_STEPS
        if num_later >= 0:
            sizes = first[BASELINE_FIRST_STEP:][:BASELINE_STEPS].abs()
            self.baseline = sizes.quantile(0.95, dim=0).tolist()
            self._first = []
        return max(0, num_later)

    def _judge_recent(self) -> list[Alarm]:
        """Judge D's loss over the last steps; not that of a critic, whose loss has no chance level."""
        if self._at_chance_level <= self._lowest or len(self._recent) < RECENT_STEPS:
            return []
        relative = (self._recent[:, 0] - self._lowest) / (self._at_chance_level - self._lowest)
        highest = float(relative.quantile(0.95))
        if highest < SATURATION_LIMIT:
            often = f"for {RECENT_STEPS} steps"
            finding = f"saturated, its adversarial loss below {highest:.2%} of that at chance level {often}"
            return [Alarm("saturated", "discriminator", self.step, finding)]
        if highest > UNSTEADY_LIMIT and self._steps_after_baseline >= RECENT_STEPS // 2:
            often = f"in a twentieth of {RECENT_STEPS} steps"
            finding = f"adversarial loss worse than at chance level, by {highest - 1:.0%} or more {often}"
            return [Alarm("unsteady", "discriminator", self.step, finding)]
        return []

    def _spikes(self, rows: Tensor) -> list[Alarm]:
        if self.baseline is None or len(rows) < SPIKE_STEPS:
            return []
        medians = rows.abs().unfold(0, SPIKE_STEPS, 1).median(-1).values
        ratios = medians.amax(0) / torch.tensor(self.baseline).clamp(min=1e-6)
        beyond = "times its first steps' for a while"
        return [
            Alarm("spike", player, self.step, f"its adversarial loss stayed at {ratio:.0f} {beyond}")
            for player, ratio, has_size in zip(PLAYERS, ratios.tolist(), self._never_negative, strict=True)
            if has_size and ratio > SPIKE_LIMIT
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {
            "baseline": self.baseline,
            "best_diversity": self.best_diversity,
            "raised": sorted(self.raised),
            "step": self.step,
            **({"apart": True} if self._apart else {}),
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """Take over what `to_json` returned.

        An older version judged whole losses, also those with other terms. What it found of such losses does not
        count any more: their baseline, and alarms because of it.
        """
        counts = not self._apart or "apart" in data
        self.baseline = data["baseline"] if counts else None
        self.raised = {(kind, network) for kind, network in data["raised"] if counts or kind == "collapse"}
        self.step = data["step"]
        self.best_diversity = data["best_diversity"]
        self._recent = self._recent[:0]
        self._first = []
        self._steps_after_baseline = 0


def loss_range(loss: AdversarialLoss) -> tuple[float, float]:
    """Return D's lowest loss, and its loss at chance level (logits of 0); both are 0 for a critic.

    The lowest is that on a grid of logits from -20 to 20.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    at_chance_level = float(loss.discriminator(zero, zero))
    lowest = float(loss.discriminator(*_logits()).min())
    return (lowest, at_chance_level) if lowest >= 0 else (0.0, 0.0)


def never_negative(loss: AdversarialLoss) -> tuple[bool, bool]:
    """Say whether D's and G's losses are never below 0. The size of others, a critic's scores, is arbitrary."""
    real, fake = _logits()
    return float(loss.discriminator(real, fake).min()) >= 0, float(loss.generator(fake, real).min()) >= 0


def _logits() -> tuple[Tensor, Tensor]:
    """Return all pairs of D's logits for a real and a generated image on a grid, shapes (801²,)."""
    grid = torch.linspace(-20, 20, 801, dtype=torch.float64)
    real, fake = torch.meshgrid(grid, grid, indexing="ij")
    return real.flatten(), fake.flatten()


def diversity(images: Tensor) -> float:
    """Return how much images (B, C, H, W) differ from one another: their variance, summed over pixels."""
    return float(images.cpu().double().var(0, correction=0).sum())
