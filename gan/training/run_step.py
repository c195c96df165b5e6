"""How a step is launched: kernel by kernel, or as one CUDA graph."""

from typing import Any

from torch import Tensor

from gan.training.batch import StepInputs
from gan.training.state import TrainState
from gan.training.step import train_step


def run_step(state: TrainState, inputs: StepInputs) -> Tensor:
    """Take `train_step` as the state is executed, and return its metrics, which are valid until the next step."""
    if state.graphs is None:
        return train_step(state, inputs)
    fields = inputs._asdict()
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    constants = {name: value for name, value in fields.items() if not isinstance(value, Tensor)}

    def step(held: dict[str, Any]) -> Tensor:
        return train_step(state, StepInputs(**held, **constants))

    return state.graphs.run(step, tensors, *constants.values(), state.due)
