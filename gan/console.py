"""The console scripts `gan-train`, `gan-sample` and `gan-evaluate`.

What they start is imported late, because the imports take seconds, in which Ctrl-C has nothing to save.
"""

from gan.process.signals import end_at_interrupts


def train() -> int:
    """Do what gan/train.py does, and return the exit code."""
    end_at_interrupts()
    from gan.train import run

    return run()


def sample() -> int:
    """Do what gan/sample.py does, and return the exit code."""
    end_at_interrupts()
    from gan.sample import run

    return run()


def evaluate() -> int:
    """Do what gan/evaluate.py does, and return the exit code."""
    end_at_interrupts()
    from gan.evaluate import run

    return run()
