"""Do the parts of a recipe fit together? Two images pass through a recipe of the user's before anything else does.

What does not fit is said in one line, before a run has a folder, and not by a traceback of its first step.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from gan.errors import UsageError
from gan.images import ImageShape
from gan.methods.augmentations import augment
from gan.models.architectures import build_discriminator, build_generator
from gan.models.batch_statistics import has_batch_statistics, has_batchnorm, use_local_batches
from gan.models.heads import has_second_head, judge
from gan.models.initialization import KEEPING, initialize
from gan.models.networks import apply
from gan.recipe_files import told
from gan.recipes import Recipe
from gan.training.footprint import networks_without_contents
from gan.training.optimizers import build_optimizer

NUM_IMAGES = 2


class _Rehearsal:
    """What is tried: `part` names the part of the recipe at work, for the error of whatever goes wrong in it."""

    def __init__(self, recipe: Recipe, image_shape: ImageShape, num_classes: int, num_processes: int) -> None:
        self.recipe = recipe
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.labels = torch.zeros(NUM_IMAGES, dtype=torch.long) if num_classes else None
        self.num_processes = num_processes
        self.part = "the generator"

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Build and initialise G and D, and build their optimizers."""
        recipe = self.recipe
        generator = build_generator(recipe.generator, recipe.latent_dim, self.image_shape, self.num_classes)
        self.part = "the discriminator"
        discriminator = build_discriminator(recipe.discriminator, self.image_shape, self.num_classes)
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            use_local_batches(network)
            self._require_modern_weight_norm(name, network)
            self.part = "the initialization"
            initialize(network, recipe.initialization)
            self.part = "the optimizer"
            build_optimizer(recipe.optimizers[name], network, torch.device("cpu"), recipe.numbers(name, 0))
        if not recipe.batchnorm and any(map(has_batchnorm, (generator, discriminator))):
            raise UsageError("a network has BatchNorm layers, and its architecture says `batchnorm = False`")
        if recipe.penalty and has_batchnorm(discriminator):
            kind = type(recipe.penalty).__name__
            raise UsageError(f"penalty {kind}: needs a D without BatchNorm, whose logit is of one image alone")
        if recipe.latent_consistency and has_batchnorm(discriminator):
            raise UsageError("latent_consistency: needs a D without BatchNorm, whose logit is of one image alone")
        if recipe.auxiliary and not has_second_head(discriminator):
            kind = type(recipe.auxiliary).__name__
            raise UsageError(f"auxiliary {kind}: needs a D with a second head, such as ACGAN's or InfoGAN's")
        if has_second_head(discriminator) and not recipe.auxiliary:
            kind = type(recipe.discriminator).__name__
            raise UsageError(f"auxiliary none: D ({kind}) has a second head, and nothing trains it; give a loss")
        return generator, discriminator

    def _require_modern_weight_norm(self, name: str, network: nn.Module) -> None:
        """Raise UsageError for weights that a hook computes, where the run would copy or draw them."""
        averaged = name == "generator" and self.recipe.ema_half_life
        hooks = [hook for layer in network.modules() for hook in layer._forward_pre_hooks.values()]
        if (averaged or self.recipe.initialization not in KEEPING) and any(
            isinstance(hook, WeightNorm) for hook in hooks
        ):
            raise UsageError(
                f"the {name}: weights of torch.nn.utils.weight_norm can be neither averaged nor initialized; use "
                "torch.nn.utils.parametrizations.weight_norm"
            )

    def losses(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Take the losses of two images as the objectives do."""
        recipe = self.recipe
        shape = (NUM_IMAGES, *self.image_shape)
        self.part = "the generator"
        latents = torch.randn(NUM_IMAGES, recipe.latent_dim)
        attached = self._require(apply(generator, latents, self.labels), "images", shape)
        self._backward(attached)
        fake = attached.detach()
        real = torch.rand(shape) * 2 - 1
        self.part = "an augmentation"
        uniform = torch.rand(NUM_IMAGES, max(recipe.warp_dim, 1))
        self._require(augment(real, recipe.augmentation, uniform), "images", shape)
        self.part = "the discriminator"
        logits = self._require(apply(discriminator, real, self.labels), "logits", (NUM_IMAGES,))
        self.part = "the loss"
        self._backward(self._values(recipe.loss.discriminator(logits, logits)))
        self._values(recipe.loss.generator(logits, logits))
        if not recipe.loss.relativistic:
            self._values(recipe.loss.generator(logits))
        self.part = "the discriminator"
        self._require_images_apart(discriminator, real)
        if recipe.penalty:
            self.part = "the penalty"
            mix = torch.rand(NUM_IMAGES) if recipe.penalty.mixes else None
            penalty = recipe.penalty(lambda x: apply(discriminator, x, self.labels), real, fake, mix)
            self._backward(self._values(penalty))
            if recipe.augmentation and hasattr(recipe.penalty, "before_augmentation"):
                judge_images = partial(apply, discriminator, labels=self.labels)
                self._values(recipe.penalty.before_augmentation(judge_images, judge_images, real, fake))
        if recipe.auxiliary:
            self.part = "the auxiliary loss"
            _, outputs = judge(discriminator, real, self.labels, with_outputs=True)
            assert outputs is not None
            auxiliary = recipe.auxiliary.discriminator(outputs, outputs, latents, self.labels)
            self._backward(self._values(auxiliary))
            self._values(recipe.auxiliary.generator(outputs, latents, self.labels))
        self.part = "the penalty of the generator"
        self._penalty_of_generator(generator, latents)

    def _require_images_apart(self, discriminator: nn.Module, real: Tensor) -> None:
        """Raise UsageError if a logit depends on another image of its batch, and no layer of D says so.

        Real and generated images go through such a D in one pass, in which it must not compare them.
        """
        if has_batch_statistics(discriminator):
            return
        images = real.clone().requires_grad_()
        same = images * 1  # a layer may change its input in place, and could not change a leaf
        first, *_ = apply(discriminator, same, self.labels)
        if first.requires_grad:
            (gradient,) = torch.autograd.grad(first, images, allow_unused=True)
            if gradient is not None and gradient[1:].nan_to_num().any():
                raise UsageError(
                    "the discriminator: the logit of an image depends on the other images of its batch; let the "
                    "layer that looks at them inherit from gan.models.batch_statistics.GlobalStatistics with "
                    "mixes_samples = True, so that real and generated images are not mixed"
                )

    def _penalty_of_generator(self, generator: nn.Module, latents: Tensor) -> None:
        if penalty := self.recipe.lazy_generator_penalty:
            directions = torch.randn(NUM_IMAGES, *self.image_shape)
            for value in penalty(generator, latents, self.labels, directions, torch.zeros(())):
                self._values(value)
        if term := self.recipe.generator_term:
            value = term(generator, latents, self.labels, apply(generator, latents, self.labels))
            self._backward(value.sum() if isinstance(value, Tensor) and not value.ndim else self._values(value))

    def _values(self, value: Any) -> Tensor:
        """Return a value of each image, or raise UsageError if it is something else."""
        return self._require(value, "values", (NUM_IMAGES,))

    def _backward(self, value: Tensor) -> None:
        """Take what trains a network backward, before its next forward pass, where several processes do so."""
        if self.num_processes > 1 and value.requires_grad:
            value.sum().backward(retain_graph=True)

    def _require(self, tensor: Any, what: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor, which must have a shape; raise UsageError otherwise."""
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{self.part} returns {what} as {type(tensor).__name__}, not as a tensor")
        if tensor.shape != shape:
            raise UsageError(
                f"{self.part} returns {what} of shape {tuple(tensor.shape)}; of {NUM_IMAGES} images it must be "
                f"{shape}"
            )
        return tensor


def rehearse(
    recipe: Recipe, image_shape: ImageShape, num_classes: int, flags: str, num_processes: int = 1
) -> set[str]:
    """Build a recipe's networks on the CPU, and take its losses of two images; no random state changes.

    For several processes the losses are also taken backward: DDP has to know which parameters get no gradient.

    Args:
        recipe: A row.
        image_shape: Channels, height, width.
        num_classes: Of a conditional recipe; 0 otherwise.
        flags: The options that made the recipe; they begin the error.
        num_processes: How many will train it.

    Returns:
        Of "generator" and "discriminator" those with parameters that get no gradient; nothing for one process.

    Raises:
        UsageError: Something raises, or returns another shape than it must; the line says which part.
    """
    rehearsal = _Rehearsal(recipe, image_shape, num_classes, num_processes)
    try:
        with torch.random.fork_rng(devices=[]):
            generator, discriminator = rehearsal.networks()
            rehearsal.losses(generator, discriminator)
    except UsageError as error:
        raise UsageError(f"{flags}: {error}") from error
    except Exception as error:
        raise UsageError(f"{flags}: {rehearsal.part}: {told(error)}") from error
    networks = {"generator": generator, "discriminator": discriminator}
    return {name for name, network in networks.items() if num_processes > 1 and _has_unused(network)}


def _has_unused(network: nn.Module) -> bool:
    """Say whether parameters that are trained have no gradient."""
    return any(weight.requires_grad and weight.grad is None for weight in network.parameters())


def takes_one_image(recipe: Recipe, image_shape: ImageShape, num_classes: int) -> bool:
    """Say whether a batch of one image can train a recipe. BatchNorm needs two numbers of each channel.

    It is tried on the meta device. Of networks that do not work there, the answer is no.

    Raises:
        UsageError: The architecture has no networks for images of this shape.
    """
    labels = torch.zeros(1, dtype=torch.long, device="meta") if num_classes else None
    try:
        networks = networks_without_contents(recipe, image_shape, num_classes)
        with torch.no_grad():
            latents = torch.empty(1, recipe.latent_dim, device="meta")
            apply(networks["discriminator"], apply(networks["generator"], latents, labels), labels)
    except UsageError:
        raise
    except Exception:  # BatchNorm's, or whatever a user's classes raise
        return False
    return True
