"""A subject: any GAN's training step, built by a function of a `Setup`.

A subject takes a few lines:

    class MyStep:
        images_per_step = 64

        def step(self) -> None:
            ...  # enqueue one whole training step: every update of D and of G; wait for nothing

    def make(setup: Setup) -> MyStep:
        ...

`make` draws everything random from `setup.seed`, and may be called again in the same process. It raises
SubjectError if it cannot be what the setup asks for.

A subject of which some steps cost more, as where a penalty is due in one of 16, also has a `period`, a whole
number: after so many steps the costs repeat. Each timed window then holds whole periods.

Four methods are optional, and each makes more of the harness work: `networks`, `optimizers`, `losses` and
`float64_step`. What a subject does not offer is left out of its results, and they say so.

- `networks()` returns a mapping of names to modules: those that are trained.
- `optimizers()` returns a mapping of names to optimizers.
- `losses()` returns a mapping of names to the losses of the last step, numbers or tensors of one element. D's is
  called `loss_d` and G's `loss_g`; others have any name. It is not called inside a timed window, and may wait.
- `float64_step(inputs)` takes a first step in float64, eagerly, in this process alone and without autocast, and
  returns its losses as `losses` does, under the same names. The subject has not taken any step before. `inputs` is
  what `step()` has returned in another subject of the same seed: whatever it takes to repeat that step. So a
  subject that offers this returns from `step()` the images, latents and labels that it took, and copies those that
  a later step overwrites. The gradients that the optimizers apply in both are compared, too; so they have to be
  optimizers of `torch.optim`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class SubjectError(Exception):
    """A subject cannot be measured, and why, in one line."""


class SetupRefusedError(SubjectError):
    """A subject says that it cannot be what a `Setup` asks for: its function raised SubjectError."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a subject is asked to be.

    Attributes:
        device: "cpu" or "cuda"; in several processes, each one's own GPU is the current device.
        precision: "fp32", "tf32", "bf16" or "fp16". `accelerate launch` is told as well.
        compile: A backend of torch.compile, or "no". `accelerate launch` is told as well.
        batch_size: Real images of a process per update of D.
        image_shape: Channels, height and width.
        num_classes: Classes of the labels; 0 without labels.
        seed: Decides everything random. What processes should draw differently follows from the rank as well.
        rank: Of this process, from 0.
        world_size: The number of processes.
        recipe: A row of `gan.recipes.RECIPES`, a recipe file, or empty. The built-in subjects train it; others may
            follow it.
        options: Further fields of `gan.options.TrainOptions`, for the built-in subjects.
    """

    device: str = "cpu"
    precision: str = "fp32"
    compile: str = "no"
    batch_size: int = 64
    image_shape: tuple[int, int, int] = (1, 28, 28)
    num_classes: int = 0
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    recipe: str = ""
    options: Mapping[str, Any] | None = None


@runtime_checkable
class Subject(Protocol):
    """A training step that can be measured."""

    @property
    def images_per_step(self) -> int:
        """Real images of a step in this process, over all updates of D."""

    def step(self) -> object:
        """Enqueue one whole training step, and wait for nothing; return what `float64_step` takes, or None."""


MakeSubject = Callable[[Setup], Subject]
OPTIONAL = {
    "networks": "the memory of weights is not counted, and T0 compares losses alone",
    "optimizers": "the memory of optimizers is not counted",
    "losses": "losses are not compared, and T4 is left out",
    "float64_step": "T1 and T2 are left out",
}
"""What a subject may offer besides, and what is left out of its results where it does not."""


def offers(subject: Subject, name: str) -> bool:
    """Say whether a subject has one of the OPTIONAL methods."""
    return callable(getattr(subject, name, None))


def missing_offers(subject: Subject) -> dict[str, str]:
    """Return the OPTIONAL methods that a subject lacks, each with what is left out because of it."""
    return {name: reason for name, reason in OPTIONAL.items() if not offers(subject, name)}
