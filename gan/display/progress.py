"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gan.files.text import printable, significant
from gan.quality.scores import MEANING

SECONDS_BETWEEN_EPOCH_LINES = 5.0
SECONDS_BETWEEN_STEP_LINES = 10.0
"""Lines of steps are printed where there is no bar."""


class Display:
    """Shows steps, epochs and messages of the main process."""

    def __init__(self, *, enabled: bool, total_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(quiet=not enabled, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled or not self.console.file.isatty(),  # FORCE_COLOR makes no terminal
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("", total=total_steps, metrics="")
        self._total_steps = total_steps
        self._last_line = time.monotonic()
        self._last_step = -math.inf

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self.console.print(printable(message), markup=False, soft_wrap=True)

    def due(self) -> bool:
        """Say whether to print a step's line: after the first step, and if nothing was shown for some seconds."""
        return not self.console.quiet and time.monotonic() - self._last_step >= SECONDS_BETWEEN_STEP_LINES

    def step(self, step: int, description: str, metrics: Mapping[str, Any], seconds_left: float) -> None:
        """Move the bar, which fits into 80 columns; without a bar, print a line if one is due.

        Args:
            step: Steps completed.
            description: Where the run stands, such as its epoch.
            metrics: As in metrics.jsonl.
            seconds_left: Until the end of the run.
        """
        short = (
            "{images_per_second:,.0f} images/s D {loss_d:.2f} G {loss_g:.2f} real {p_real:.2f} fake {p_fake:.2f}"
        )
        self._bar.update(self._task, completed=step, description=description, metrics=short.format(**metrics))
        if not self.console.file.isatty() and self.due():
            left = timedelta(seconds=round(seconds_left))
            self.say(f"{description}  step {step:,}/{self._total_steps:,}  {format_metrics(metrics)}  {left} left")
        self._last_step = time.monotonic()

    def epoch(self, epoch: int, num_epochs: int, metrics: Mapping[str, Any]) -> None:
        """Print an epoch's line, and a line of scores if it has any.

        The line is left out if the one before is less than SECONDS_BETWEEN_EPOCH_LINES old, unless the epoch has
        scores or is the last.

        Args:
            epoch: The epoch's number, from 1.
            num_epochs: Epochs of the run.
            metrics: As in metrics.jsonl.
        """
        now = time.monotonic()
        scores = format_scores(metrics)
        if epoch == num_epochs or now - self._last_line >= SECONDS_BETWEEN_EPOCH_LINES or scores:
            self._last_line = now
            self._last_step = now
            self.say(f"epoch {epoch:>{len(str(num_epochs))}}/{num_epochs}  {format_metrics(metrics)}")
        if scores:
            self.say(f"  scores: {scores}")


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return images/s, losses and probabilities as one short line; those that are None are left out.

    >>> format_metrics({"images_per_second": 5000.0, "loss_d": 1.25, "loss_g": 0.75, "p_real": None})
    '5,000 images/s  loss D 1.250  G 0.750'
    """
    parts = [f"{metrics['images_per_second']:,.0f} images/s"]
    for name, label in (
        ("loss_d", "loss D"),
        ("loss_g", "G"),
        ("p_real", "p(real)"),
        ("p_fake", "p(fake)"),
        ("test_p_real", "test p(real)"),
        ("test_p_fake", "test p(fake)"),
    ):
        if metrics.get(name) is not None:
            parts.append(f"{label} {metrics[name]:.3f}")
    return "  ".join(parts)


def format_scores(metrics: Mapping[str, Any]) -> str:
    """Return the scores among an epoch's metrics as one line; empty if there are none."""
    return "  ".join(
        " ".join(format_score(name, metrics[name])) for name in MEANING if metrics.get(name) is not None
    )


def format_score(name: str, value: float) -> tuple[str, str]:
    """Return a score's label, and its value in the unit that papers use.

    >>> format_score("kid", 0.0123)
    ('kid ×10³', '12.3')
    """
    if name in ("kid", "kid_std"):
        return f"{name} ×10³", significant(1000 * value, 4)
    return name, f"{value:,}" if name == "modes" else significant(value, 4)
