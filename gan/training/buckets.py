"""Which gradients processes exchange together: the buckets of DDP, settled before the first step."""

from torch.nn.parallel import DistributedDataParallel


def settle_buckets(wrapped: DistributedDataParallel) -> None:
    """Let DDP divide gradients into its lasting buckets now, in the order in which a backward pass makes them.

    By itself, DDP exchanges all gradients of its first pass in one bucket, and divides them after it. Three
    processes or more add up a gradient in an order that depends on its place in a bucket. A resumed run would
    round its first step otherwise than the same step of a run without a stop.

    This is one backward pass of all weights times 0, and leaves no gradients. All processes have to call it.
    """
    weights = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    total = weights[0].sum() * 0
    for weight in weights[1:]:
        total = total + weight.sum() * 0
    wrapped.reducer.prepare_for_forward()
    wrapped.reducer.prepare_for_backward([])
    total.backward()
    wrapped.reducer._rebuild_buckets()
    for weight in weights:
        weight.grad = None
