"""What every recipe keeps to, whoever wrote it: a row of RECIPES, a file of the user's, or `--set`."""

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from gan.data.datasets import require_dataset
from gan.data.order import Sampling
from gan.errors import UsageError
from gan.methods.adaptive import Adaptive
from gan.methods.augmentations import AUGMENTATIONS
from gan.methods.auxiliary import MutualInformation
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lazy import every_of
from gan.methods.lecam import LeCam
from gan.models.architectures import architecture, describe, is_built_in
from gan.models.infogan import InfoGAN
from gan.models.initialization import INITIALIZERS, KEEPING, WeightsOf
from gan.recipe_numbers import wrong_number
from gan.recipes import OFF, Recipe

PARTS: dict[str, tuple[str, ...]] = {
    "generator": ("generator", "batchnorm", "min_generator_tensors"),
    "discriminator": ("discriminator", "batchnorm"),
    "loss": ("discriminator", "generator", "relativistic"),
    "penalty": ("__call__", "weight", "mixes"),
    "auxiliary": ("discriminator", "generator", "weight"),
    "generator_penalty": ("__call__", "weight"),
}
"""What the classes of a recipe's parts must have."""


def broken_rule(recipe: Recipe) -> str | None:
    """Return the first rule that a recipe breaks, in one line; None if it keeps to all of them."""
    return next((complaint for rule in _RULES if (complaint := rule(recipe))), None)


def _counts(recipe: Any) -> str | None:
    for name in ("batch_size", "epochs", "latent_dim", "discriminator_steps"):
        value = getattr(recipe, name)
        if type(value) is not int or value < 1:
            return f"{name} {value!r}: must be a whole number of at least 1"
    return None


def _lecam(recipe: Any) -> str | None:
    lecam = recipe.lecam
    if lecam is None:
        return None
    if not isinstance(lecam, LeCam):
        return f"lecam {lecam!r}: must be gan.methods.lecam.LeCam, or None"
    return None


def _latent_consistency(recipe: Any) -> str | None:
    consistency = recipe.latent_consistency
    if consistency is None:
        return None
    if not isinstance(consistency, LatentConsistency):
        return f"latent_consistency {consistency!r}: must be a LatentConsistency of gan.methods, or None"
    if recipe.generator_first:
        return (
            "latent_consistency: with generator_first D learns on images of a G that has changed since; "
            "leave one of them out"
        )
    return None


def _names(recipe: Any) -> str | None:
    if not isinstance(recipe.sampling, Sampling):
        return f"sampling {recipe.sampling!r}: must be a member of gan.data.order.Sampling"
    if recipe.initialization not in INITIALIZERS:
        return f"initialization {recipe.initialization!r}: must be one of {', '.join(INITIALIZERS)}"
    try:
        require_dataset(str(recipe.dataset))
    except UsageError as error:
        return str(error)
    augmentation: Any = recipe.augmentation
    if not isinstance(augmentation, tuple):
        return f"augmentation {augmentation!r}: must be a tuple"
    for item in augmentation:
        if item not in AUGMENTATIONS if isinstance(item, str) else not (callable(item) and is_dataclass(item)):
            return (
                f"augmentation {item!r}: must be one of {', '.join(AUGMENTATIONS)}, or a frozen dataclass that is "
                "called with images (B, C, H, W) and uniform numbers (B, 7)"
            )
    return None


def _architectures(recipe: Recipe) -> str | None:
    for name in ("generator", "discriminator"):
        spec = getattr(recipe, name)
        if is_built_in(spec):
            try:
                architecture(json.loads(json.dumps(describe(spec), default=repr)))
            except ValueError as error:
                return f"{name}: {error} is out of range"
    return None


def _codes(recipe: Recipe) -> str | None:
    """D's second head learns the codes that G is given, which both divide the latents into."""
    auxiliary = recipe.auxiliary
    if not isinstance(auxiliary, MutualInformation):
        return None
    learnt = (auxiliary.sizes, auxiliary.num_continuous)
    for name, spec in (("generator", recipe.generator), ("discriminator", recipe.discriminator)):
        if isinstance(spec, InfoGAN) and (spec.sizes, spec.num_continuous) != learnt:
            return (
                f"{name}: has codes of sizes {spec.sizes} and num_continuous {spec.num_continuous}, and the "
                f"auxiliary loss learns others, {learnt[0]} and {learnt[1]}; set both alike"
            )
    return None


def _parts(recipe: Recipe) -> str | None:
    for name, members in PARTS.items():
        part = getattr(recipe, name)
        if part is None and name in ("penalty", "auxiliary", "generator_penalty"):
            continue
        if not is_dataclass(part) or isinstance(part, type):
            return f"{name} {part!r}: must be a frozen dataclass, so that it can be recorded"
        if name == "generator_penalty" and recipe.lazy_generator_penalty:
            members = (*members, "decay")
        if lacks := [member for member in members if not hasattr(part, member)]:
            return f"{name} {type(part).__name__}: lacks {', '.join(lacks)}"
    kinds = get_args(get_type_hints(Recipe)["optimizer"])
    for name, optimizer in recipe.optimizers.items():
        if not isinstance(optimizer, kinds):
            return f"optimizer of the {name} {optimizer!r}: must be {' or '.join(kind.__name__ for kind in kinds)}"
    return None


def _lazy(recipe: Recipe) -> str | None:
    for name, penalty in (("penalty", recipe.penalty), ("generator_penalty", recipe.generator_penalty)):
        every = every_of(penalty)
        if type(every) is not int or every < 1:
            return f"{name}.every {every!r}: must be a whole number of at least 1"
    return None


def _adaptive(recipe: Recipe) -> str | None:
    adaptive: Any = recipe.adaptive
    if adaptive is None:
        return None
    if not isinstance(adaptive, Adaptive):
        return f"adaptive {adaptive!r}: must be gan.methods.adaptive.Adaptive, or None"
    for name in ("interval", "images"):
        value = getattr(adaptive, name)
        if type(value) is not int or value < 1:
            return f"adaptive.{name} {value!r}: must be a whole number of at least 1"
    if not recipe.takes_probability:
        return (
            "adaptive: none of the augmentations takes a probability; leave it out (adaptive=none), or add one "
            "that does, such as ada"
        )
    return None


def ignored_probability(recipe: Recipe) -> str | None:
    """Return in one line why the probability of augmentation has no effect; None if it has, or is not set."""
    probability = recipe.augmentation_probability
    if probability == OFF["augmentation_probability"] or not recipe.augmentation:
        return None
    if recipe.adaptive is not None:
        return f"augmentation_probability {probability!r}: no effect with adaptive, which begins at adaptive.begin"
    if not recipe.takes_probability:
        return f"augmentation_probability {probability!r}: no effect, this augmentation changes all images"
    return None


def drawn_anew(recipe: Recipe) -> str | None:
    """Return what a user should know of a recipe whose initialization replaces weights, in one line."""
    kinds = _networks_drawn_anew(recipe, "drawn")
    if not kinds:
        return None
    return (
        f"initialization {recipe.initialization} replaces the weights that {' and '.join(kinds)} would draw; "
        "--set initialization=built-in keeps those"
    )


def _networks_drawn_anew(recipe: Recipe, weights: WeightsOf) -> list[str]:
    """Return the architectures whose weights the initialization replaces, of those with such `own_weights`."""
    if recipe.initialization in KEEPING:
        return []
    networks = (recipe.generator, recipe.discriminator)
    kinds = [type(spec).__name__ for spec in networks if getattr(spec, "own_weights", "") == weights]
    return list(dict.fromkeys(kinds))


def _initialization(recipe: Recipe) -> str | None:
    kinds = _networks_drawn_anew(recipe, "scaled")
    if not kinds:
        return None
    return (
        f"initialization {recipe.initialization!r}: layers of {kinds[0]} have equalised learning rates: they "
        "scale the weights that they draw, and others would be too small; set initialization=built-in"
    )


def _recorded(recipe: Recipe) -> str | None:
    try:
        json.dumps(recipe.to_json(), allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"its values cannot be recorded as JSON ({error}); use numbers, texts, tuples and dataclasses"
    return None


_RULES: tuple[Callable[[Any], str | None], ...] = (
    _counts,
    wrong_number,
    _lecam,
    _latent_consistency,
    _names,
    _architectures,  # before what computes with their values
    _codes,
    _parts,
    _lazy,
    _adaptive,
    _initialization,
    _recorded,
)
