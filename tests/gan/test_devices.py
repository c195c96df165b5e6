"""A GPU, simulated by the device `meta`: its tensors have no values, and operators refuse others beside them."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from gan.recipe_files import label_of
from gan.recipes import RECIPES
from tests.gan.reference import AUGMENTED, LAZY, NEAR, OF_CLASSES, OPTIONAL, OWN_RECIPE, inputs, small_state

META = torch.device("meta")
OTHERS = [OWN_RECIPE, OPTIONAL, AUGMENTED, NEAR, *LAZY, *OF_CLASSES]


@pytest.mark.parametrize("name", [*RECIPES, *OTHERS], ids=label_of)
def test_a_state_and_its_step_are_on_one_device(
    name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also scalars, which operators take from the CPU: a CUDA graph would repeat their first value."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **settings: nullcontext() if kind == "meta" else autocast(kind, **settings)
    )
    accelerator.state.device = META  # reset with the state, after the test
    state = small_state(name, accelerator, seed=0, steps_per_epoch=10)
    held = [*state.tensors().items()]
    for part in (*(player.objective for player in state.players.values()), state.generate, state.generator_loss):
        assert isinstance(part, nn.Module)
        held += [*part.named_buffers(), *part.named_parameters()]
    assert [name for name, tensor in held if tensor.device != META] == []
    state.record(inputs(name, 8).to(META, torch.float32).train(state, 1 / 8), 8)
