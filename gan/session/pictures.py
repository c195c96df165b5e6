"""The pictures of a run: real images, samples of each epoch, and how the run went."""

from typing import Any

import torch

from gan.data.datasets import classes_of
from gan.display.figures import cells_by_class, evenly, image_grid, save_animation, save_curves, save_image
from gan.errors import UsageError
from gan.models.networks import apply, evaluating
from gan.seeds import derive_seed
from gan.session.run import Run
from gan.training.state import TrainState

GRID_ROWS = 8
GRID_COLUMNS = 8
MOST_CLASS_COLUMNS = 10
"""Most columns of a grid by class; a dataset of more classes shows the first ones."""


def draw_real(run: Run) -> None:
    """Write a grid of real images as the networks get them, by class as the samples are, or if there are few."""
    columns = GRID_COLUMNS
    cells: list[int | None] = [*evenly(range(len(run.dataset)), GRID_ROWS * GRID_COLUMNS)]
    classes = classes_of(run.dataset)
    if run.dataset.labels is not None and (run.recipe.conditional or len(classes) <= MOST_CLASS_COLUMNS):
        columns = min(MOST_CLASS_COLUMNS, len(classes))
        cells = cells_by_class(run.dataset.labels.cpu(), classes[:columns], GRID_ROWS)
    (images,) = run.dataset.stream([torch.tensor([cell for cell in cells if cell is not None])])
    grid = torch.full((len(cells), *run.dataset.image_shape), -1.0)
    grid[[cell is not None for cell in cells]] = images.cpu()
    run.require_folder()
    run.folder.real.parent.mkdir(exist_ok=True)
    save_image(run.folder.real, image_grid(grid, columns), parents=False)


@torch.no_grad()
def draw_samples(run: Run, state: TrainState, epoch: int) -> None:
    """Write an epoch's grid of generated images, of the same latents in every epoch; by class if conditional."""
    device = run.place.device
    classes = classes_of(run.dataset)[:MOST_CLASS_COLUMNS] if state.num_classes else []
    columns = len(classes) or GRID_COLUMNS
    source = torch.Generator().manual_seed(derive_seed(run.options.seed, "samples"))
    latents = torch.randn(GRID_ROWS * columns, run.recipe.latent_dim, generator=source)
    labels = torch.tensor(classes, device=device).repeat(GRID_ROWS) if classes else None
    with evaluating(state.sampler):
        images = apply(state.sampler, latents.to(device), labels)
    run.require_folder()
    run.folder.sample(epoch).parent.mkdir(exist_ok=True)
    save_image(run.folder.sample(epoch), image_grid(images, columns), parents=False)


def draw_course(run: Run, epochs: list[dict[str, Any]]) -> None:
    """Write the curves of the epochs so far, and their sample grids as an animation."""
    save_curves(run.folder.curves, epochs)
    try:
        save_animation(run.folder.animation, run.folder.samples(), parents=False)
    except UsageError as error:
        run.display.say(f"warning: {error}; {run.folder.animation.name} was not drawn")
