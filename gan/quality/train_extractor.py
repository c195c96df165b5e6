"""`python -m gan.quality.train_extractor [DATASET…]`: train the classifiers that scores are computed with."""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from gan.data.datasets import DATASETS, DEFAULT_IMAGE_SHAPE, DatasetRequest, ImageSource
from gan.data.in_memory import InMemoryImages
from gan.errors import require_known
from gan.files.atomic import whole_file
from gan.images import to_unit_range
from gan.process.script import exit_code_of
from gan.quality.extractor import EXTRACTORS, build_classifier, extract
from gan.seeds import derive_seed

DATA_ROOT = Path("data")
STEPS = 6000
BATCH_SIZE = 100
LEARNING_RATE = 4e-3


def train_classifier(images: Tensor, labels: Tensor) -> nn.Sequential:
    """Return a classifier trained on uint8 images (N, 1, 28, 28) and their classes (N,).

    On one machine its weights are bit for bit the same in every training.
    """
    torch.manual_seed(derive_seed(0, "extractor"))
    network = build_classifier()
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(derive_seed(0, "extractor order"))
    for _ in range(STEPS // (len(images) // BATCH_SIZE)):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(BATCH_SIZE)[: len(images) // BATCH_SIZE]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(to_unit_range(images[rows])), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def held_out(dataset: ImageSource) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and classes to train on, and images and classes to measure the accuracy on."""
    assert isinstance(dataset, InMemoryImages)
    assert dataset.labels is not None
    if dataset.test is None or dataset.test_labels is None:
        num_train = 5 * len(dataset) // 6
        train, test = dataset.train.tensor_split([num_train])
        labels, test_labels = dataset.labels.tensor_split([num_train])
        return train, labels, test, test_labels
    return dataset.train, dataset.labels, dataset.test, dataset.test_labels


def main(names: list[str]) -> None:
    """Train the extractors of these datasets, or of all; write their weights and print their rows."""
    torch.set_num_threads(1)  # so that sums do not depend on the number of cores
    for name in names or EXTRACTORS:
        require_known("DATASET", name, EXTRACTORS)
        request = DatasetRequest(DATA_ROOT, DEFAULT_IMAGE_SHAPE, 0, torch.device("cpu"))
        images, labels, test, test_labels = held_out(DATASETS[name](request))
        network = train_classifier(images, labels)
        data = save({key: value.half() for key, value in network.state_dict().items()})
        with whole_file(EXTRACTORS[name].weights) as file:
            file.write(data)
        network.load_state_dict(load(data))
        right = extract(network, test).probabilities.argmax(1) == test_labels
        print(f'"{hashlib.sha256(data).hexdigest()}", {right.double().mean():.4f}')


if __name__ == "__main__":
    sys.exit(
        exit_code_of(
            lambda: main(sys.argv[1:]),
            advice="mend this and train again",
            interrupted="interrupted; the classifiers whose rows are printed are written",
            lower="BATCH_SIZE",
        )
    )
