"""The plain tutorial's step, as people write it: what the training core is compared with.

BCELoss on a sigmoid, D trainable in G's update, `.item()` at each step, fp32, eager, optimizers with defaults.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan.methods.augmentations import AUGMENTATIONS, augment
from gan.methods.auxiliary import ClassPrediction
from gan.methods.losses import NonSaturating
from gan.methods.optimizers import RMSprop
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1, GradientPenalty, ZeroCentred
from gan.methods.schedules import at
from gan.models.batch_statistics import running_statistics_kept
from gan.recipes import Recipe


class _Batch(NamedTuple):
    """What one pass takes, besides generated images: the batch of an update, or one of its micro-batches.

    Attributes:
        images: Real ones, (B, C, H, W).
        z: Latents, (B, latent_dim).
        classes: Of both kinds of images, (B,).
        warp: For augmentation of the real and the generated images, (B, 2, recipe.warp_dim).
        epsilon: For a gradient penalty, (B,).
        noise: For a penalty of G, (B, C, H, W).
    """

    images: Tensor
    z: Tensor
    classes: Tensor | None
    warp: Tensor | None
    epsilon: Tensor | None
    noise: Tensor | None

    @property
    def condition(self) -> tuple[Tensor, ...]:
        """What a network takes besides its input."""
        return () if self.classes is None else (self.classes,)

    def split(self, num_parts: int) -> list["_Batch"]:
        """Return micro-batches."""
        parts = [(None,) * num_parts if whole is None else whole.tensor_split(num_parts) for whole in self]
        return [_Batch(*part) for part in zip(*parts, strict=True)]


def plain_step(
    recipe: Recipe,
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Sequence[Tensor],
    latents: Tensor,
    mix: Tensor | None = None,
    labels: Sequence[Tensor | None] = (None,),
    accumulate: int = 1,
    warps: Tensor | None = None,
    directions: Tensor | None = None,
    mean: Tensor | None = None,
    step: int = 0,
    anchors: Tensor | None = None,
) -> list[float]:
    """Take one step of a recipe as its tutorial would, and return loss_d, loss_g, p_real and p_fake.

    It is one long function on purpose: it reads like the tutorials, and shares no code with the step it judges.

    Args:
        recipe: A row.
        generator: Latents (B, latent_dim) to images (B, C, H, W).
        discriminator: Images to scores (B,).
        optimizer_g: Of the generator.
        optimizer_d: Of the discriminator.
        real: Images in [-1, 1], (B, C, H, W) for each update of D.
        latents: Shape (recipe.latents_per_step, B, latent_dim).
        mix: Uniform on [0, 1), shape (recipe.discriminator_steps, B), for a gradient penalty.
        labels: Classes (B,) for each update of D, for a conditional recipe.
        accumulate: Micro-batches of an update, of equal size.
        warps: Uniform on [0, 1), shape (recipe.discriminator_steps + 1, 2, B, recipe.warp_dim), for augmentation
            of the real and the generated images of each update of D, and of the one of G.
        directions: Standard normal, shape (B, C, H, W), for a penalty of G that is due.
        mean: The running mean of what that penalty measures, a scalar, which is moved; None begins with 0.
        step: Steps before this one, by which lazy penalties are due.
        anchors: LeCam's, shape (2,), which are moved; None begins with zeros.
    """
    objective = recipe.loss
    bce = nn.BCELoss()
    labels = [*labels] * (len(real) if len(labels) == 1 else 1)
    num_parts = min(accumulate, len(real[0]))
    fakes: list[Tensor] = []
    taken_by_d: list[Tensor] = []  # generated images of an update of D, for a lazy penalty
    due = recipe.due(step)
    probability = torch.tensor(recipe.probability(0), dtype=latents.dtype, device=latents.device)
    mean = latents.new_zeros(()) if mean is None else mean
    lengths: list[Tensor] = []
    anchors = latents.new_zeros(2) if anchors is None else anchors
    mean_scores: list[Tensor] = []

    def score(images: Tensor, batch: _Batch) -> tuple[Tensor, Tensor | None]:
        outputs = None
        if recipe.auxiliary:
            scores, outputs = discriminator(images, *batch.condition, with_outputs=True)
        else:
            scores = discriminator(images, *batch.condition)
        return (scores.sigmoid() if type(objective) is NonSaturating else scores), outputs

    def auxiliary_loss(outputs: Tensor | None, batch: _Batch) -> Tensor:
        assert recipe.auxiliary is not None
        assert outputs is not None
        if type(recipe.auxiliary) is ClassPrediction:
            assert batch.classes is not None
            entropy: Tensor = nn.CrossEntropyLoss()(outputs, batch.classes)
            return entropy
        return recipe.auxiliary.generator(outputs, batch.z, batch.classes).mean()

    def batch_of(number: int) -> _Batch:
        """What an update of D takes, or that of G, which is number -1."""
        warp = None if warps is None else warps[number].movedim(1, 0)  # images first: they are split into parts
        epsilon = None if mix is None else mix[number]
        return _Batch(real[number], latents[number], labels[number], warp, epsilon, directions)

    def augmented(images: Tensor, batch: _Batch, kind: int) -> Tensor:
        warp = None if batch.warp is None else batch.warp[:, kind]
        if recipe.takes_probability:
            return augment(images, recipe.augmentation, warp, probability)
        for item in recipe.augmentation:
            function: Any = AUGMENTATIONS[item] if isinstance(item, str) else item
            images = function(images, warp)
        return images

    def targets(scores: Tensor, value: float) -> Tensor:
        return torch.full((len(scores),), value, dtype=scores.dtype, device=scores.device)

    def update(
        optimizer: torch.optim.Optimizer, loss_of: Callable[[_Batch], list[Tensor]], batch: _Batch
    ) -> list[float]:
        optimizer.zero_grad()
        values = []
        for part in batch.split(num_parts):
            loss, *probabilities = loss_of(part)
            (loss if num_parts == 1 else loss / num_parts).backward()
            values.append([loss, *probabilities])
        optimizer.step()
        return [sum(value.item() for value in column) / num_parts for column in zip(*values, strict=True)]

    def loss_of_generator(batch: _Batch) -> list[Tensor]:
        fake = fakes.pop(0) if recipe.shared_fakes else generator(batch.z, *batch.condition)
        fakes.append(fake)
        scores, outputs = score(augmented(fake, batch, 1), batch)
        scores_real = None
        if objective.relativistic:
            scores_real, _ = score(augmented(batch.images, batch, 0), batch)
        if recipe.takes_top_k:
            num_best = math.ceil(at(recipe.generator_top_k, 0) * len(scores) - 1e-4)  # 0.28 × 25 is above 7
            best = scores.topk(num_best).indices
            scores = scores[best]
            scores_real = None if scores_real is None else scores_real[best]
        if type(objective) is NonSaturating:
            loss = bce(scores, targets(scores, 1.0))
        else:
            loss = objective.generator(scores, scores_real).mean()
        if recipe.auxiliary:
            loss = loss + recipe.auxiliary.weight * auxiliary_loss(outputs, batch)
        if recipe.generator_term:
            loss = loss + recipe.generator_term.weight * term_of_generator(batch, fake)
        if recipe.latent_consistency:
            difference = ((fake - near_images(batch)) ** 2).mean()
            loss = loss - recipe.latent_consistency.generator_weight * difference
        return [loss]

    def term_of_generator(batch: _Batch, fake: Tensor) -> Tensor:
        assert recipe.generator_term is not None
        if type(recipe.generator_term) is not OrthogonalRegularization:  # somebody's own
            return recipe.generator_term(generator, batch.z, batch.classes, fake).mean()
        products = []
        for layer in generator.modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                continue
            weight: Tensor = next(value for name, value in layer.named_parameters() if name != "bias")
            rows = (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)
            gram = rows @ rows.T
            products.append((gram - gram.diag().diag()).norm() ** 2)
        return torch.stack(products).sum()

    def near_images(batch: _Batch) -> Tensor:
        """Images of latents near these, which leave BatchNorm's running statistics alone."""
        assert recipe.latent_consistency is not None
        with running_statistics_kept(generator):
            images: Tensor = generator(recipe.latent_consistency.near(batch.z), *batch.condition)
            return images

    def loss_of_discriminator(batch: _Batch) -> list[Tensor]:
        fake = fakes.pop(0) if recipe.generator_first else generator(batch.z, *batch.condition)
        if recipe.shared_fakes:
            fakes.append(fake)
        fake = fake.detach()
        taken_by_d.append(fake)
        scores_real, outputs_real = score(augmented(batch.images, batch, 0), batch)
        scores_fake, outputs_fake = score(augmented(fake, batch, 1), batch)
        p_real = scores_real
        p_fake = scores_fake
        if type(objective) is NonSaturating:
            loss_real = bce(scores_real, targets(scores_real, objective.real_label))
            loss = objective.scale * (loss_real + bce(scores_fake, targets(scores_fake, 0.0)))
        else:
            loss = objective.discriminator(scores_real, scores_fake).mean()
            p_real = scores_real.sigmoid()
            p_fake = scores_fake.sigmoid()
        if recipe.auxiliary:
            auxiliary = auxiliary_loss(outputs_fake, batch)
            if type(recipe.auxiliary) is ClassPrediction:  # real images have a class, and no latents
                auxiliary = auxiliary + auxiliary_loss(outputs_real, batch)
            loss = loss + recipe.auxiliary.weight * auxiliary
        if not recipe.lazy_penalty:
            loss = penalised(loss, batch, fake)
        if recipe.latent_consistency:
            near, _ = score(augmented(near_images(batch).detach(), batch, 1), batch)
            logits = (scores_fake, near)
            if type(objective) is NonSaturating:
                logits = (scores_fake.logit(), near.logit())
            difference = ((logits[0] - logits[1]) ** 2).mean()
            loss = loss + recipe.latent_consistency.discriminator_weight * difference
        if recipe.lecam:
            loss = loss + recipe.lecam.weight * far_from_anchors(scores_real, scores_fake)
        return [loss, p_real.mean(), p_fake.mean()]

    def far_from_anchors(scores_real: Tensor, scores_fake: Tensor) -> Tensor:
        assert recipe.lecam is not None
        if type(objective) is NonSaturating:
            scores_real = scores_real.logit()
            scores_fake = scores_fake.logit()
        mean_scores.append(torch.stack([scores_real.detach().mean(), scores_fake.detach().mean()]))
        above = scores_real - anchors[1]
        below = anchors[0] - scores_fake
        if recipe.lecam.one_sided:
            above = above.clamp(min=0)
            below = below.clamp(min=0)
        return (above**2 + below**2).mean()

    def penalised(loss: Tensor, batch: _Batch, fake: Tensor) -> Tensor:
        if not recipe.penalty:
            return loss
        weight = at(recipe.penalty.weight, 0)
        if isinstance(recipe.penalty, ZeroCentred | R1):  # their gradients go through the augmentation
            kinds = (batch.images, fake) if type(recipe.penalty) is ZeroCentred else (batch.images,)
            for kind, samples in enumerate(kinds):
                samples = samples.detach().clone().requires_grad_(True)
                gradients = input_gradients(samples, augmented(samples, batch, kind), batch)
                loss = loss + weight / 2 * gradients.square().sum(1).mean()
            return loss
        images = augmented(batch.images, batch, 0)
        fake = augmented(fake, batch, 1)
        if type(recipe.penalty) is GradientPenalty:
            return loss + weight * gradient_penalty(images, fake, batch)
        # somebody's own
        penalties = recipe.penalty(
            lambda samples: discriminator(samples, *batch.condition), images, fake, batch.epsilon
        )
        return loss + weight * penalties.mean()

    def lazy_loss_of_discriminator(batch: _Batch) -> list[Tensor]:
        penalty = penalised(nothing_of(discriminator), batch, taken_by_d.pop(0))
        return [recipe.lazy["discriminator"] * penalty]

    def nothing_of(network: nn.Module) -> Tensor:
        """Every weight takes part in an update, also where the penalty does not depend on it."""
        return 0 * torch.stack([parameter.sum() for parameter in network.parameters()]).sum()

    def lazy_loss_of_generator(batch: _Batch) -> list[Tensor]:
        assert recipe.lazy_generator_penalty is not None
        assert batch.noise is not None
        weight = recipe.lazy["generator"] * at(recipe.lazy_generator_penalty.weight, 0)
        if type(recipe.lazy_generator_penalty) is not PathLength:  # somebody's own
            penalty, length = recipe.lazy_generator_penalty(generator, batch.z, batch.classes, batch.noise, mean)
        else:
            styled: Any = generator
            styles = styled.styles(batch.z, batch.classes)
            images = styled.synthesis(styles)
            product = (images * batch.noise).sum() / math.sqrt(images[0, 0].numel())
            gradients = torch.autograd.grad(product, styles, create_graph=True)[0]
            length = torch.sqrt((gradients**2).sum(dim=2).mean(dim=1))
            penalty = (length - mean) ** 2
        lengths.append(length.detach())
        return [weight * penalty.mean() + nothing_of(generator)]

    def update_of_generator() -> float:
        (loss,) = update(optimizer_g, loss_of_generator, batch_of(-1))
        if due.generator:
            assert recipe.lazy_generator_penalty is not None
            update(optimizer_g, lazy_loss_of_generator, batch_of(-1))
            mean.lerp_(torch.cat(lengths).mean(), recipe.lazy_generator_penalty.decay)
        return loss

    def clip_weights() -> None:
        if recipe.discriminator_clip:
            for parameter in discriminator.parameters():
                parameter.data.clamp_(-recipe.discriminator_clip, recipe.discriminator_clip)

    def gradient_penalty(images: Tensor, fake: Tensor, batch: _Batch) -> Tensor:
        assert batch.epsilon is not None
        epsilon = batch.epsilon.view(-1, 1, 1, 1)
        between = (epsilon * images + (1 - epsilon) * fake).detach().clone().requires_grad_(True)
        gradients = input_gradients(between, between, batch)
        penalty: Tensor = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        return penalty

    def input_gradients(samples: Tensor, seen: Tensor, batch: _Batch) -> Tensor:
        scores = discriminator(seen, *batch.condition)
        gradients = torch.autograd.grad(scores, samples, torch.ones_like(scores), create_graph=True)[0]
        return gradients.view(len(gradients), -1)

    if recipe.generator_first:
        loss_g = update_of_generator()
    updates = []
    for index in range(len(real)):
        if recipe.shared_fakes:
            fakes.clear()  # G learns on those of the last update
        taken_by_d.clear()
        updates.append(update(optimizer_d, loss_of_discriminator, batch_of(index)))
        if recipe.lecam:
            anchors.mul_(recipe.lecam.decay).add_((1 - recipe.lecam.decay) * sum(mean_scores) / len(mean_scores))
            mean_scores.clear()
        clip_weights()
        if index in due.discriminator:
            update(optimizer_d, lazy_loss_of_discriminator, batch_of(index))
            clip_weights()
    loss_d, p_real, p_fake = (sum(values) / len(real) for values in zip(*updates, strict=True))
    if not recipe.generator_first:
        loss_g = update_of_generator()
    return [loss_d, loss_g, p_real, p_fake]


def plain_optimizers(
    recipe: Recipe, generator: nn.Module, discriminator: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return the optimizers of G and D, with the row's settings at the first step, and PyTorch's defaults."""

    def optimizer(name: str, network: nn.Module) -> torch.optim.Optimizer:
        kind = torch.optim.RMSprop if isinstance(recipe.optimizers[name], RMSprop) else torch.optim.Adam
        return kind(network.parameters(), **recipe.numbers(name, 0))

    return optimizer("generator", generator), optimizer("discriminator", discriminator)
