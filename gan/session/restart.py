"""What a launcher has restarted goes on by itself: `--max_restarts` of `accelerate launch` and torchrun.

A start goes on only with a run that an earlier start of the same launch has begun: the run's config.json names the
launch. For everything else it is a first start. Some ends are final, and no start goes on after them: bad input, a
run that diverged, `--on-unhealthy stop`, and a signal that asked the run to stop.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gan.errors import DivergedError, Interrupted, UnhealthyError, UsageError
from gan.files.json_files import write_json
from gan.files.locks import LockedError
from gan.files.run_folder import RunFolder, default_outputs, read_config
from gan.options import TrainOptions
from gan.process.peers import Peers
from gan.process.watch import Watch, current_watch

LAUNCH = "launch"
"""The member of config.json that says which start of which launch wrote it last, as `Peers.launch`."""
END = "ended"
"""The member of config.json, and the key in the launcher's store, of an end that is final."""
BEGUN = "begun"
"""The key of the run's folder in the launcher's store, which may last from one start to the next."""
FINAL: tuple[type[Exception], ...] = (UsageError, DivergedError, UnhealthyError, Interrupted)
"""Errors that a restart does not mend."""


@dataclass(frozen=True)
class End:
    """How a run ended for good.

    Attributes:
        kind: The name of one of `FINAL`.
        line: The error's message.
        exit_code: Of an interruption.
        launch: The start that ended, as `Peers.launch`.
    """

    kind: str
    line: str
    exit_code: int
    launch: dict[str, int]

    @classmethod
    def by(cls, error: Exception, launch: Mapping[str, int]) -> "End":
        """Return the end that an error of `FINAL` is."""
        kind = next(kind for kind in FINAL if isinstance(error, kind)).__name__
        return cls(kind, str(error), error.exit_code if isinstance(error, Interrupted) else 0, dict(launch))

    def is_final_for(self, launch: Mapping[str, int]) -> bool:
        """Say whether a start is a later one of the same launch, and must not go on.

        A launcher that takes another node in stops its processes with SIGTERM, too. It counts no failure then.
        A node that is taken away is stopped with its launcher. It comes back with another one, to go on.
        """
        if not is_later(launch, self.launch):
            return False
        if self.kind != Interrupted.__name__:
            return True
        failed = any(launch.get(name, 0) > num_restarts for name, num_restarts in self.launch.items())
        return failed and self.launch.keys() <= launch.keys()

    def error(self) -> Exception:
        """Return the error, to be raised again on all ranks."""
        if self.kind == Interrupted.__name__:
            return Interrupted(self.line, self.exit_code)
        error = {kind.__name__: kind for kind in FINAL}[self.kind](self.line)
        if isinstance(error, UsageError):
            error.everywhere = True
        return error


def is_later(launch: Mapping[str, int], before: Any) -> bool:
    """Say whether a start is a later one of the launch that a note of `before` is of.

    One launcher in common is enough: a lost node comes back with a new one. A second run of the same processes is
    no later start: as many restarts, by the same launchers.
    """
    return isinstance(before, dict) and not before.keys().isdisjoint(launch) and before != launch


def going_on(options: TrainOptions, watch: Watch | None) -> TrainOptions:
    """Return the options of this start: those of a resumption, if the launcher has restarted the run.

    Rank 0 decides for all. A run is resumed if it got as far as its config.json; otherwise it begins anew, in the
    same folder.

    Raises:
        UsageError, DivergedError, UnhealthyError, Interrupted: An earlier start of this launch ended for good.
    """
    if watch is None:
        return options
    decision = watch.peers.agreed("restart", _decision(options, watch.peers))
    if decision is None:
        return options
    if END in decision:
        raise End(**decision[END]).error()
    find_batch_size = options.find_batch_size and not decision["resume"]
    return replace(options, **{**decision, "output": Path(decision["output"]), "find_batch_size": find_batch_size})


def _decision(options: TrainOptions, peers: Peers) -> dict[str, Any] | None:
    """Return what changes in the options, or the end of the run; None for a first start, and on other ranks."""
    if peers.place.rank != 0:
        return None
    end = _noted(peers, END)
    if end is not None and End(**end).is_final_for(peers.launch):
        return {END: end}
    for folder in [options.output] if options.output else default_outputs(options.label):
        config = _config_of(folder)
        if config is not None and is_later(peers.launch, config.get(LAUNCH)):
            end = config.get(END)
            if end is not None and End(**end).is_final_for(peers.launch):
                return {END: end}
            batch_size = config["options"].get("batch_size")  # of --find-batch-size
            return {"output": str(folder), "resume": True, "batch_size": batch_size}
    begun = None if options.output else _noted(peers, BEGUN)
    if begun is not None and is_later(peers.launch, begun[LAUNCH]):
        return {"output": begun["folder"], "resume": options.resume, "batch_size": options.batch_size}
    return None


def _noted(peers: Peers, key: str) -> Any:
    """Return what an earlier start has noted; None if there is none, or if its store is gone with its rank 0."""
    return json.loads(peers.lasting.get(key)) if peers.lasting.check([key]) else None


def _config_of(folder: Path) -> dict[str, Any] | None:
    """Return a run's config.json; None if it cannot be read, which is complained about elsewhere."""
    with suppress(UsageError, OSError):
        return read_config(RunFolder(folder).config)
    return None


def note_begun(folder: RunFolder, watch: Watch | None) -> None:
    """Note the folder of the run for a start to come, on the main process."""
    if watch is not None and watch.peers.place.rank == 0:
        begun = {"folder": str(folder.root.absolute()), LAUNCH: watch.peers.launch}
        watch.peers.lasting.set(BEGUN, json.dumps(begun))


def of_this_start(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json as this start writes it: with its launch, and without the end of an earlier one."""
    watch = current_watch()
    kept = {name: value for name, value in config.items() if name not in (LAUNCH, END)}
    return {**kept, LAUNCH: watch.peers.launch} if watch is not None and watch.peers.launch else kept


@contextmanager
def ending_for_good(watch: Watch | None, folder: RunFolder | None = None) -> Iterator[None]:
    """Note an end that is final for a start to come: in the launcher's store, and in the folder of the run.

    A new launcher on rank 0's node has another store, and finds the note in the folder.

    Args:
        watch: Without it there are no other starts.
        folder: Of the run, once it is held.
    """
    try:
        yield
    except LockedError:  # who holds the folder may let go of it
        raise
    except FINAL as error:
        if watch is not None:
            _note_end(End.by(error, watch.peers.launch), watch.peers, folder)
        raise


def _note_end(end: End, peers: Peers, folder: RunFolder | None) -> None:
    if folder is not None and peers.place.rank == 0:
        config = _config_of(folder.root)
        if config is not None and config.get(LAUNCH) == end.launch:  # this start has written it
            with suppress(OSError):
                write_json(folder.config, {**config, END: asdict(end)}, parents=False)
    with suppress(RuntimeError):  # the store is gone
        peers.lasting.set(END, json.dumps(asdict(end)))
