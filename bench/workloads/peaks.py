"""What this machine can do at the most: two peaks, each measured in turns with the step that they limit."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from bench.harness.device import device_waiter
from bench.harness.windows import Arm
from bench.workloads.setup import Products, in_turn, repeated
from gan.models.onednn import use_onednn

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRODUCT_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
SLOW_PRODUCT_SECONDS = 0.05
LEAST_UPDATED_BYTES = 2**20
COPIED_BYTES = {"cpu": 128 * 2**20, "cuda": 2**30}


def roofline_arms(
    products: Products,
    flops: int,
    precision: str,
    device: torch.device,
    lasting: int = 0,
) -> Iterator[tuple[Arm, dict[str, float]]]:
    """Yield the arms that measure the peaks, and for each the FLOPs or bytes of one of its steps.

    `products` are the step's own products, alone. `peak_product` is the fastest large product at the precision.
    `peak_copy` is a copy larger than the caches, which is read and written. `peak_update` is an addition in place:
    it reads two tensors and writes one, which together are as large as what outlives the step. That may stay in
    the caches; and a processor reads what it overwrites by a copy, which nobody counts, but not so here.

    Args:
        products: Of each step of a period; none where they cannot be taken alone.
        flops: Of a step's products, the mean over a period.
        precision: Of the step.
        device: Where it is taken.
        lasting: Bytes of what outlives the step; 0 where they are not known.
    """
    if products:
        yield Arm("products", in_turn(products), period=len(products), every=8), {"flops": flops}
    product, product_flops = _fastest_product(DTYPES[precision], device)
    yield Arm("peak_product", repeated(product), every=8), {"flops": product_flops}
    num_bytes = COPIED_BYTES[device.type]
    source = torch.randn(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    yield Arm("peak_copy", repeated(lambda: target.copy_(source)), every=8), {"bytes": 2 * num_bytes}
    if lasting:
        size = min(num_bytes, max(LEAST_UPDATED_BYTES, lasting) // 2) // 4
        updated = torch.zeros(size, device=device)
        addend = torch.randn(size, device=device)
        yield Arm("peak_update", repeated(lambda: updated.add_(addend)), every=8), {"bytes": 3 * 4 * size}


def _fastest_product(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], int]:
    """Return the large matrix product that has the highest rate, and its FLOPs."""
    candidates: list[tuple[float, Callable[[], object], int]] = []
    for size in PRODUCT_SIZES[device.type]:
        if candidates and candidates[-1][0] * SLOW_PRODUCT_SECONDS < 2 * size**3:
            break  # the processor lacks this precision: a larger product would take seconds
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        ways: list[Callable[[], object]] = [partial(torch.mm, left, right)]
        if dtype == torch.float32 and device.type == "cpu":
            layer = nn.Linear(size, size, bias=False).requires_grad_(requires_grad=False)
            use_onednn(layer)
            ways.append(partial(layer, left))
        for way in ways:
            seconds = _seconds(way, device)
            if seconds < SLOW_PRODUCT_SECONDS:
                seconds = min(_seconds(way, device) for _ in range(3))
            candidates.append((2 * size**3 / seconds, way, 2 * size**3))
    _, way, flops = max(candidates, key=lambda candidate: candidate[0])
    return way, flops


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    wait = device_waiter(device)
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began
