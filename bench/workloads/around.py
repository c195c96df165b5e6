"""What surrounds the step: sampling, checkpoints, the start."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.harness.windows import Arm
from bench.subjects.plain import products_in_fp32
from bench.workloads.setup import CoreSetup, repeated, steps_inside, without_gradients
from gan.models.architectures import build_generator
from gan.training.checkpoints import keep_newest, load_checkpoint, newest_first, save_checkpoint


def sampling(setup: CoreSetup) -> Iterator[Arm]:
    """Images from fresh latents, in evaluation mode, beside the same network as a tutorial runs it."""
    recipe = setup.run.recipe
    state = setup.state
    batch_size = setup.case.batch_size
    state.generator.network.eval()

    def draw() -> Tensor:
        return torch.randn(batch_size, recipe.latent_dim, device=setup.device)

    labels = torch.arange(batch_size, device=setup.device) % state.num_classes if state.num_classes else None
    yield Arm("sampling", repeated(lambda: without_gradients(state.generate, draw(), labels)), batch_size)
    plain = build_generator(recipe.generator, recipe.latent_dim, state.image_shape, state.num_classes)
    plain.to(setup.device).eval()
    plain_steps = steps_inside(products_in_fp32, repeated(lambda: without_gradients(plain, draw(), labels)))
    yield Arm("plain", plain_steps, batch_size)


def checkpoint(setup: CoreSetup) -> Iterator[Arm]:
    """Saving a checkpoint, verified and on disk; beside it loading one, and `torch.save` of the same tensors."""
    run = setup.run
    state = setup.state
    folder = setup.folder / "checkpoints"
    next(setup.steps())

    def save() -> None:
        state.progress.images_seen += 1
        save_checkpoint(
            folder,
            state.tensors(),
            state.counters(),
            recipe=run.options.recipe,
            images_seen=state.progress.images_seen,
        )
        keep_newest(folder, 2)

    def load() -> None:
        loaded = load_checkpoint(newest_first(folder)[0])
        state.load(loaded.tensors, loaded.counters, 0)

    yield Arm("checkpoint", repeated(save))
    setup.facts["checkpoint_bytes"] = newest_first(folder)[0].stat().st_size
    yield Arm("load", repeated(load))
    plain = setup.folder / "plain.pt"
    yield Arm("plain", repeated(lambda: torch.save(state.tensors(), plain)))


def startup(setup: CoreSetup) -> Iterator[Arm]:
    """The first step. The times of the start are taken with it, and there is no window."""
    yield Arm("step", setup.steps(), setup.images_per_step())
