"""What is counted of a subject's step: memory, FLOPs, bytes; and what is left out where it does not show them."""

from typing import Any

import pytest
import torch
from torch import nn

from bench.harness.windows import Arm, Collectives
from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import Setup
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS
from bench.workloads.roofline import recorded
from bench.workloads.subject import SubjectSetup, note_last_losses, subject_step
from bench.workloads.table import SUBJECT_ARMS, SUBJECT_FACTS
from tests.bench.tiny_gan import PIXELS, Faults, StepAlone, TinyGan, builder

BATCH = 16


def arms_of(subject: MeasuredSubject, case: Case) -> tuple[dict[str, Arm], dict[str, Any]]:
    """Return the arms, a step of each taken, and the facts."""
    facts: dict[str, Any] = {}
    setup = SubjectSetup(case, subject, lambda _: subject, Collectives(), facts)
    arms = {}
    for arm in subject_step(setup):
        next(arm.steps)
        arms[arm.name] = arm
    note_last_losses(setup)
    return arms, facts


@pytest.fixture(autouse=True)
def _small_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no real peaks, which takes time and memory."""
    monkeypatch.setattr("bench.workloads.peaks.PRODUCT_SIZES", {"cpu": (16,)})
    monkeypatch.setattr("bench.workloads.peaks.COPIED_BYTES", {"cpu": 1024})


def tiny(faults: Faults | None = None) -> MeasuredSubject:
    return builder(faults)(Setup(batch_size=BATCH))


def test_workloads_of_subjects_are_bound_to_what_measures_them() -> None:
    rows = {row.name for row in WORKLOADS.values() if row.of_subjects}
    assert rows == SUBJECT_ARMS.keys() | SUBJECT_FACTS.keys()


def test_memory_flops_and_bytes_of_a_subject_are_counted() -> None:
    arms, facts = arms_of(tiny(), Case(subject="tiny.py:make", recipe=""))
    assert arms.keys() == {"step", "products", "peak_product", "peak_copy", "peak_update"}
    assert arms["step"].images_per_step == BATCH
    sizes = {"generator": 4 * PIXELS + PIXELS, "discriminator": PIXELS + 1}
    assert facts["num_parameters"] == sizes
    assert facts["weights_bytes"] == {name: 4 * size for name, size in sizes.items()}
    # Adam's two averages of each weight, and a count for each tensor
    assert facts["optimizer_bytes"] == {name: 8 * size + 4 * 2 for name, size in sizes.items()}
    assert facts["least_bytes_per_step"] == 2 * sum(
        sum(facts[name].values()) for name in ("weights_bytes", "optimizer_bytes")
    )
    # D's update: its product on real and on generated images, forwards and for its weights. G's: G and D forwards,
    # the gradients of both networks' weights, as D is trainable, and that of G's images.
    of_g = 2 * BATCH * 4 * PIXELS
    of_d = 2 * BATCH * PIXELS
    assert facts["flops_per_step"] == 4 * of_d + 2 * of_g + 3 * of_d
    assert facts["last_losses"].keys() == {"loss_d", "loss_g"}
    assert facts["left_out"] == {"× plain": "no --recipe says which GAN the plain loop should train"}


def test_the_plain_loop_of_the_recipe_takes_turns_with_a_subject() -> None:
    arms, facts = arms_of(tiny(), Case(subject="tiny.py:make", recipe="wgan", batch_size=3))
    assert arms["plain"].images_per_step == 15  # five updates of D
    assert "left_out" not in facts


def test_what_a_subject_does_not_show_is_left_out() -> None:
    subject = MeasuredSubject(StepAlone(), Setup())
    arms, facts = arms_of(subject, Case(subject="alone.py:make", recipe=""))
    assert arms.keys() == {"step", "products", "peak_product"}
    assert facts["flops_per_step"] == 2 * 5 * 7 * 2
    assert facts["left_out"].keys() == {"memory of weights", "memory of optimizers", "× plain", "reached"}
    assert "least_bytes_per_step" not in facts
    assert "last_losses" not in facts


def test_a_step_without_products_has_no_floor() -> None:
    class Nothing:
        images_per_step = 1

        def step(self) -> None:
            torch.rand(3).add_(1)

    arms, facts = arms_of(MeasuredSubject(Nothing(), Setup()), Case(subject="nothing.py:make", recipe=""))
    assert arms.keys() == {"step"}
    assert "no matrix product or convolution" in facts["left_out"]["reached"]


def test_what_only_one_process_can_be_asked_is_left_out_of_several() -> None:
    case = Case(workload="scaling", subject="tiny.py:make", recipe="", num_processes=2)
    arms, facts = arms_of(tiny(), case)
    assert arms.keys() == {"step"}
    assert facts["left_out"].keys() == {"efficiency", "communication", "× plain"}
    assert facts["same_weights"]


def total(subject: MeasuredSubject) -> float:
    weights = [weight for network in (subject.networks() or {}).values() for weight in network.parameters()]
    return sum(float(weight.detach().double().sum()) for weight in weights)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_processes_that_train_apart_are_noticed(seed: int, same: bool) -> None:
    subject = tiny()
    other = total(tiny(Faults(seed=lambda _: seed)))

    def maximum(value: float) -> float:
        """The other process says its total, and then the negative of it."""
        return max(value, other if value == total(subject) else -other)

    facts: dict[str, Any] = {}
    case = Case(workload="scaling", subject="tiny.py:make", recipe="", num_processes=2)
    setup = SubjectSetup(case, subject, lambda _: subject, Collectives(maximum=maximum), facts)
    list(subject_step(setup))  # takes no step
    assert facts["same_weights"] == same


def test_losses_that_are_not_finite_are_noted() -> None:
    _, facts = arms_of(tiny(Faults(loss=lambda loss, _: loss * float("nan"))), Case(subject="a.py:b", recipe=""))
    assert facts["last_losses"]["loss_d"] is None


def test_layers_count_the_same_with_and_without_inference_mode() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(128, 5))
    images = torch.rand(2, 1, 8, 8)

    def inferred() -> None:
        with torch.inference_mode():
            network(images)

    counted = recorded(lambda: network(images)).flops
    assert counted > 0
    assert recorded(inferred).flops == counted


def test_the_step_of_a_subject_is_counted_where_a_penalty_takes_a_gradient_inside() -> None:
    class Penalized(TinyGan):
        def train(self, *inputs: Any, **_: Any) -> None:
            images = inputs[0].requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.d(images).sum(), images, create_graph=True)
            gradient.square().sum().backward()

        def losses(self) -> dict[str, Any]:
            return {}

    subject = MeasuredSubject(Penalized(Setup(batch_size=BATCH)), Setup(batch_size=BATCH))
    assert recorded(subject.step).flops >= 3 * 2 * BATCH * PIXELS
