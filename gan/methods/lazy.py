"""Lazy regularisation: a penalty is taken in an update of its own, every so many updates of its network.

Karras et al. 2020, arXiv:1912.04958, section 3.1 and appendix B. Between two penalties a network takes `every`
updates for its loss, and one more for the penalty. Three corrections keep what training does in that time:

- the penalty counts `every` times;
- the optimizer's learning rate is multiplied by ``c = every / (every + 1)``;
- the decay rates of its averages are taken to the power of c.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Due(NamedTuple):
    """Which updates of a step are followed by one for the penalty of the same network.

    Attributes:
        discriminator: The numbers of D's updates in the step, from 0.
        generator: Whether G's update is.
    """

    discriminator: tuple[int, ...] = ()
    generator: bool = False


def every_of(penalty: Any) -> int:
    """Return after how many updates of its network a penalty is due; 1 if it does not say.

    A penalty of D that is due after each update is a part of D's loss.
    """
    every: int = getattr(penalty, "every", 1)
    return every


def due_updates(every: int, num_before: int, num_updates: int) -> tuple[int, ...]:
    """Return which of the next updates of a network are followed by one for its penalty, the very first one too.

    >>> [due_updates(4, num_before, 3) for num_before in (0, 3, 6, 9)]
    [(0,), (1,), (2,), ()]

    Args:
        every: Updates from one penalty to the next.
        num_before: Updates of the network so far, those for penalties not counted.
        num_updates: The next ones.
    """
    return tuple(number for number in range(num_updates) if (num_before + number) % every == 0)


def period_of(every: Mapping[str, int], num_updates: int) -> int:
    """Return after how many steps the same updates for penalties are due again.

    So many steps, one after another, have each kind of step as often as it occurs, wherever they begin: their mean
    is that of training.

    >>> period_of({"discriminator": 16, "generator": 4}, 1), period_of({"discriminator": 6}, 4), period_of({}, 1)
    (16, 3, 1)

    Args:
        every: Updates from one penalty to the next, by network.
        num_updates: Of D in a step.
    """
    of_discriminator = every.get("discriminator", 1)
    steps = of_discriminator // math.gcd(of_discriminator, num_updates)
    return math.lcm(steps, every.get("generator", 1))


def correction(every: int) -> float:
    """Return c, by which an optimizer is corrected if a penalty takes an update after every so many.

    >>> correction(16)
    0.9411764705882353
    """
    return every / (every + 1)
