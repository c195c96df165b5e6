"""Numbers and schedules at every place of every recipe: they train, or one line refuses them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gan.errors import UsageError
from gan.methods.adaptive import Adaptive
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.optimizers import RMSprop
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.penalties import DRAGAN
from gan.methods.schedules import Cosine, Linear
from gan.models.mlp import MLP
from gan.recipe_files import recipe_named
from gan.recipe_numbers import SCHEDULED
from gan.recipe_rules import broken_rule
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES, Recipe
from gan.recipes_small import small
from gan.training.rehearsal import rehearse
from gan.training.step import train_step
from tests.gan.reference import CLASS_RECIPES, IMAGE_SHAPE, LAZY, NUM_CLASSES, float64_state, inputs

Place = tuple[str | int, ...]
MLPS = {"generator": MLP((16,)), "discriminator": MLP((16,), negative_slope=0.2)}
EVERYTHING = replace(
    RECIPES["mlp-compact"],
    **MLPS,
    penalty=DRAGAN(),
    lecam=LeCam(),
    latent_consistency=LatentConsistency(),
    generator_penalty=OrthogonalRegularization(),
    discriminator_optimizer=RMSprop(1e-4),
    augmentation=("ada",),
    adaptive=Adaptive(),
)
ROWS: dict[str, Callable[[], Recipe]] = {
    "everything": lambda: EVERYTHING,
    **{name: lambda name=name: small(name) for name in RECIPES},
    "styled": lambda: recipe_named(LAZY[0]),
    **{name: lambda name=name: recipe_named(f"{CLASS_RECIPES}:{name}") for name in ("acgan", "infogan")},
}


def numbers_in(part: Any, place: Place = ()) -> Iterator[tuple[Place, Any, type]]:
    """Yield where a part of ours has numbers or schedules, with their values and the class that they are of."""
    pairs = (
        enumerate(part)
        if isinstance(part, tuple)
        else ((item.name, getattr(part, item.name)) for item in fields(part))
    )
    for name, value in pairs:
        if isinstance(value, int | float | Cosine | Linear) and not isinstance(value, bool):
            yield (*place, name), value, type(part)
        elif isinstance(value, tuple) or (is_dataclass(value) and type(value).__module__.startswith("gan.")):
            yield from numbers_in(value, (*place, name))


def with_value(part: Any, place: Place, value: Any) -> Any:
    """Return a part with another value at a place, unless its classes refuse it."""
    name, *rest = place
    if isinstance(name, int):
        return tuple(
            with_value(item, tuple(rest), value) if rest else value if at == name else item
            for at, item in enumerate(part)
        )
    return replace(part, **{name: with_value(getattr(part, name), tuple(rest), value) if rest else value})


def begin_of(value: Any) -> float:
    return value.begin if isinstance(value, Cosine | Linear) else value


def refusal(attempt: Callable[[], object]) -> str | None:
    """Return what a user is told of what is refused, one line; None if it is not refused."""
    try:
        attempt()
    except UsageError as error:
        return str(error)
    return None


class Trainer:
    """Trains rows that no rule refuses; each class, setting and kind of value once."""

    def __init__(self, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.accelerator = accelerator
        self.monkeypatch = monkeypatch
        self.trained: set[tuple[type, str | int, str]] = set()

    def train(self, row: Recipe, *key: Any) -> None:
        """Train two steps, unless the rehearsal that every row of a user has says in one line what is wrong."""
        if key in self.trained:
            return
        self.trained.add(key)
        num_classes = NUM_CLASSES if row.conditional else 0
        complaint = refusal(lambda: rehearse(row, IMAGE_SHAPE, num_classes, "--recipe mine.py"))
        if complaint is not None:
            assert "\n" not in complaint
            return
        self.monkeypatch.setitem(RECIPES, "changed", row)
        state = float64_state("changed", self.accelerator)
        for step in range(2):
            state.record(train_step(state, inputs("changed", 4, step).of(state, 1 / 4)), 50)


def places() -> Iterator[tuple[str, Recipe, Place, Any, type]]:
    """Yield a name, its row, and a place with its value and the class that it is of."""
    for name, row_of in ROWS.items():
        row = row_of()
        for place, value, kind in list(numbers_in(row)):
            yield name, row, place, value, kind


def changed_row(row: Recipe, place: Place, value: Any) -> Recipe | None:
    """Return a row with another value; None if a class refuses it, which users are told in one line."""
    try:
        changed: Recipe = with_value(row, place, value)
    except (AssertionError, TypeError, ValueError):
        return None
    return changed


def test_a_schedule_at_any_place_trains_or_is_refused(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(accelerator, monkeypatch)
    for name, row, place, value, kind in places():
        changed = changed_row(row, place, Linear(begin_of(value), begin_of(value) / 2, 100))
        if changed is None:
            continue
        dotted = ".".join(map(str, place))
        complaint = broken_rule(changed)
        if complaint is None:
            assert dotted in SCHEDULED, f"{name}: {dotted}"
            trainer.train(changed, kind, place[-1])
        else:
            assert "\n" not in complaint
            assert dotted.split(".")[0] in complaint, f"{name}: {dotted}: {complaint}"
    assert {last for _, last in trainer.trained} == {
        *("learning_rate", 1, "weight", "generator_top_k", "augmentation_probability", "ema_half_life"),
    }


WRONG = (math.nan, math.inf, -math.inf, "x", None, -1, -0.5)
WRONG_SCHEDULES = (Linear(math.nan, 0.5, 10), Cosine(0.5, math.inf, 10), Linear(0.5, -1, 10))


def test_what_is_no_number_or_negative_trains_or_is_refused(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(accelerator, monkeypatch)
    for name, row, place, _, kind in places():
        dotted = ".".join(map(str, place))
        for other in (*WRONG, *(WRONG_SCHEDULES if dotted in SCHEDULED else ())):
            changed = changed_row(row, place, other)
            if changed is None:
                continue
            complaint = broken_rule(changed)
            if complaint is not None:
                assert "\n" not in complaint
                continue
            assert other in (-1, -0.5, "x", None), f"{name}: {dotted}={other} passes"
            assert dotted not in SCHEDULED, f"{name}: {dotted}={other} passes"
            trainer.train(changed, kind, place[-1], repr(other))


def test_settings_of_the_command_line_are_refused_in_one_line_or_taken() -> None:
    for _, row, place, value, _ in places():
        dotted = ".".join(map(str, place))
        begin = begin_of(value)
        parts = {"": "Linear", ".begin": begin, ".end": begin, ".images": 9}
        settings = [f"{dotted}{part}={text}" for part, text in parts.items()]
        complaint = refusal(lambda row=row, settings=settings: with_settings(row, settings))
        if complaint is None:
            assert with_settings(row, settings) == with_value(row, place, Linear(begin, begin, 9))
            assert dotted in SCHEDULED
        else:
            assert complaint.startswith("--set ")
            assert "\n" not in complaint


FALLING = Linear(0.1, 0.0, 9)
SHOWN = "Linear(begin=0.1, end=0.0, images=9)"
NOT_NEGATIVE = "must be a number of at least 0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lecam": LeCam(FALLING)}, f"lecam.weight {SHOWN}: {NOT_NEGATIVE}; it takes no schedule"),
        ({"lecam": LeCam(-0.3)}, f"lecam.weight -0.3: {NOT_NEGATIVE}"),
        ({"ema_ramp": FALLING}, f"ema_ramp {SHOWN}: {NOT_NEGATIVE}; it takes no schedule"),
        ({"discriminator_clip": FALLING}, f"discriminator_clip {SHOWN}: {NOT_NEGATIVE}; it takes no schedule"),
        ({"penalty": DRAGAN(10.0, FALLING)}, f"penalty.deviation {SHOWN}: takes no schedule; give a number"),
        ({"penalty": DRAGAN(10.0, math.nan)}, "penalty.deviation nan: must be a finite number"),
        ({"penalty": DRAGAN(Linear(1, math.inf, 9))}, f"end=inf, images=9): {NOT_NEGATIVE}, or a schedule of"),
        ({"penalty": DRAGAN(Linear(1, -1, 9))}, f"end=-1, images=9): {NOT_NEGATIVE}, or a schedule of"),
        ({"penalty": DRAGAN(Linear(1, 0, 0))}, "penalty.weight.images 0: must be a whole number of at least 1"),
        ({"generator_top_k": FALLING}, f"generator_top_k {SHOWN}: must be a number above 0 and at most 1, or a"),
        ({"generator": MLP((4,), dropout=FALLING)}, f"generator.dropout {SHOWN}: takes no schedule; give a"),
        ({"adaptive": Adaptive(target="x")}, "adaptive.target 'x': must be a number"),
    ],
)  # fmt: skip
def test_the_line_says_where_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    complaint = broken_rule(replace(EVERYTHING, **changes))
    assert complaint is not None
    assert message in complaint


@dataclass(frozen=True)
class Falling:
    """A term of a user's, whose weight is no field."""

    mixes: ClassVar[bool] = False

    @property
    def weight(self) -> Linear:
        return Linear(1.0, 0.0, 10)

    def __call__(self, *_: object) -> Tensor:
        return torch.zeros(4)


def test_a_weight_that_is_a_property_is_judged_as_a_field_is() -> None:
    """D's penalty may follow a schedule; a term of G's loss may not."""
    assert broken_rule(replace(EVERYTHING, penalty=Falling())) is None
    complaint = broken_rule(replace(EVERYTHING, generator_penalty=Falling()))
    assert complaint is not None
    assert complaint.startswith("generator_penalty.weight Linear(")
