"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, nothing on other ranks."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gan.text import printable

SECONDS_BETWEEN_LINES = 5.0


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
            disable=not enabled or not self.console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("", total=total_steps, metrics="")
        self._last_line = time.monotonic()

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

    def step(self, step: int, description: str, metrics: Mapping[str, Any]) -> None:
        """Move the bar; with losses and probabilities it fits 80 columns."""
        short = (
            "{images_per_second:,.0f} images/s D {loss_d:.2f} G {loss_g:.2f} real {p_real:.2f} fake {p_fake:.2f}"
        )
        self._bar.update(self._task, completed=step, description=description, metrics=short.format(**metrics))

    def epoch(self, epoch: int, epochs: int, metrics: Mapping[str, Any]) -> None:
        """Print an epoch's line, unless the last one is less than a few seconds old and more will come."""
        now = time.monotonic()
        if epoch == epochs or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {format_metrics(metrics)}")


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return images/s, losses and probabilities as one short line; what is None is left out."""
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
