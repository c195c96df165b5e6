"""The DCGAN example that ours is raced against trains the same GAN: same parameters, same step."""

import copy
from typing import Any

import pytest
import torch

from bench.subjects.load import build_subject
from bench.subjects.plain_step import plain_optimizers, plain_step
from bench.subjects.subject import Setup, SetupRefusedError
from gan.methods.optimizers import Adam
from gan.models.dcgan import DCGAN
from gan.models.networks import num_parameters
from gan.recipes import RECIPES
from tests.conftest import ROOT

SPEC = "docs/examples/subjects/dcgan_example.py:make"
ROW = RECIPES["dcgan"]
SETUP = {"recipe": "dcgan", "batch_size": 2, "image_shape": (3, 64, 64)}


@pytest.fixture(scope="module")
def subject() -> Any:
    return build_subject(SPEC, Setup(**SETUP), ROOT)


def test_the_networks_have_our_parameters(subject: Any) -> None:
    networks = {
        "generator": DCGAN().generator(ROW.latent_dim, (3, 64, 64)),
        "discriminator": DCGAN().discriminator((3, 64, 64)),
    }
    for name, network in subject.networks().items():
        assert num_parameters(network) == num_parameters(networks[name])


def test_a_step_is_the_plain_step_of_our_row(subject: Any) -> None:
    """D on real and generated images, then G on the same images: with fresh ones the loss of G is another."""
    assert ROW.shared_fakes
    assert isinstance(ROW.optimizer, Adam)
    networks = {name: copy.deepcopy(network) for name, network in subject.networks().items()}
    networks["discriminator"] = torch.nn.Sequential(*networks["discriminator"][:-2], torch.nn.Flatten(0))
    images = next(subject.batches)
    subject.batches = iter([images])
    torch.manual_seed(1)
    subject.step()
    torch.manual_seed(1)
    latents = torch.randn(1, len(images), ROW.latent_dim)
    optimizers = plain_optimizers(ROW, networks["generator"], networks["discriminator"])
    loss_d, loss_g, *_ = plain_step(ROW, *networks.values(), *optimizers, [images], latents)
    assert subject.losses() == pytest.approx({"loss_d": loss_d, "loss_g": loss_g}, rel=1e-5)


@pytest.mark.parametrize("setting", [{"precision": "bf16"}, {"image_shape": (1, 28, 28)}, {"recipe": "mlp"}])
def test_what_it_does_not_train_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(SetupRefusedError):
        build_subject(SPEC, Setup(**{**SETUP, **setting}), ROOT)
