"""Does the gate work in a repository of ten lines? Checks of it, with verdicts, exit codes and times.

Run on a machine that has nothing else to do: python tests/bench/gate_acceptance.py [REPETITIONS]. A repetition
takes about eight minutes: no change, a commit whose step does 5 % more work, and one with another loss.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN = """\
import torch, torch.nn as nn, torch.nn.functional as F
class Gan:
    def __init__(self, setup):
        self.g, self.d = (nn.Sequential(nn.Linear(a, 512), nn.ReLU(), nn.Linear(512, b)) for a, b in ((64, 784), (784, 1)))
        self.adams, self.x = [torch.optim.Adam(net.parameters(), 2e-4) for net in (self.d, self.g)], torch.rand(64, 784)
        self.images_per_step, self.losses = 64, lambda: {"loss_d": self.l[0], "loss_g": self.l[1]}
    def step(self):
        z = self.g(torch.randn(64, 64))
        self.l = [lambda: F.softplus(-self.d(self.x)).mean() + F.softplus(self.d(z.detach())).mean(), lambda: F.softplus(-self.d(z)).mean()]
        for i, adam in enumerate(self.adams): adam.zero_grad(); self.l[i] = self.l[i](); self.l[i].backward(); adam.step()
"""  # noqa: E501
STEP = "    def step(self):\n"
COUNT_WORK = """
import itertools, statistics, time, torch, train
gan = train.Gan(None)
a = torch.rand(64, 64)
def timed(function, times=1):
    began = time.perf_counter()
    for _ in range(times): function()
    return time.perf_counter() - began
timed(gan.step, 50)
step = statistics.median(timed(gan.step) for _ in range(200))
product = statistics.median(timed(lambda: torch.mm(a, a), 50) for _ in range(50)) / 50
print(max(1, round(0.05 * step / product)))
"""


def git(repository: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)


def python(repository: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)


def check(repository: Path, what: str) -> None:
    """Check the commit that is checked out against the first one, and print what came out."""
    began = time.monotonic()
    budget = os.environ.get("BUDGET", "10m")
    options = ("--subject", "train.py:Gan", "--base", "first", "--inject", "0%", "--budget", budget)
    done = python(repository, "-m", "bench", "regress", *options, "--wide", "--output", "../check.json")
    seconds = time.monotonic() - began
    said = " ".join(done.stdout.split()) or done.stderr
    losses = re.search(r"losses (differ[^;]*|of the first [^)]*\))", said)
    change = ""
    if done.returncode != 2:
        verdict = json.loads((repository.parent / "check.json").read_text())["verdict"]
        step = next(row for row in verdict["judgements"] if row["what"] == "step time")
        high = math.inf if step["high"] is None else step["high"]
        change = f"{step['change']:+.1%} ({step['low']:+.1%} to {high:+.1%}), {step['pairs']} pairs"
    cells = (
        what,
        said.split(":")[0],
        str(done.returncode),
        change,
        losses[0] if losses else "",
        f"{seconds:.0f} s",
    )
    print(" | ".join(cells), flush=True)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary) / "repository"
        repository.mkdir()
        path = repository / "train.py"
        path.write_text(TRAIN)
        git(repository, "init", "--quiet", "--initial-branch", "main")
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "--message", "train")
        git(repository, "tag", "first")
        num_products = int(python(repository, "-c", COUNT_WORK).stdout)
        work = f"        a = torch.ones(64, 64)\n        for _ in range({num_products}): torch.mm(a, a)\n"
        print(f"commit | verdict | exit code | step time | losses | seconds; 5 % are {num_products} products")
        for number in range(repetitions):
            for what, text in (
                ("no change", TRAIN),
                ("5 % more work", TRAIN.replace(STEP, STEP + work)),
                (
                    "another loss",
                    TRAIN.replace("F.softplus(-self.d(self.x))", "0.9 * F.softplus(-self.d(self.x))"),
                ),
            ):
                path.write_text(text)
                git(repository, "commit", "--quiet", "--all", "--allow-empty", "--message", f"{what} {number}")
                check(repository, what)


if __name__ == "__main__":
    main()
