"""What a launcher has restarted goes on by itself: `--max_restarts` of `accelerate launch` and torchrun."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gan.files.run_folder import RunFolder, newest_default_output, read_config
from gan.options import TrainOptions
from gan.process.peers import Peers
from gan.process.watch import Watch

RUN = "run"
"""The key of the run's folder, in the store that the launcher keeps from one start to the next."""


def going_on(options: TrainOptions, watch: Watch | None) -> TrainOptions:
    """Return the options of this start: those of a resumption, if the launcher has restarted the run.

    Rank 0 decides for all. A run is resumed if it got as far as its config.json; otherwise it begins anew, in the
    same folder.
    """
    if watch is None:
        return options
    decision: dict[str, Any] | None = None
    root = _begun_before(options, watch.peers) if watch.peers.place.rank == 0 and watch.is_first else None
    if root is not None:
        config = RunFolder(root).config
        batch_size = options.batch_size
        if begun := config.exists():
            batch_size = read_config(config)["options"].get("batch_size")  # of --find-batch-size
        decision = {"output": str(root), "resume": begun or options.resume, "batch_size": batch_size}
    decision = watch.peers.agreed("restart", decision)
    if decision is None:
        return options
    find_batch_size = options.find_batch_size and not decision["resume"]
    return replace(options, **{**decision, "output": Path(decision["output"]), "find_batch_size": find_batch_size})


def _begun_before(options: TrainOptions, peers: Peers) -> Path | None:
    """Return the folder of the run that this launch has begun; None if it is the first start.

    If rank 0 is on another node now, its launcher has a new store, which knows of nothing.
    """
    if peers.lasting.check([RUN]):
        return Path(json.loads(peers.lasting.get(RUN)))
    if not peers.restarted:
        return None
    return options.output or newest_default_output(options.label)


def note_begun(folder: RunFolder, watch: Watch | None) -> None:
    """Note the folder of the run for a start to come, on the main process."""
    if watch is not None and watch.peers.place.rank == 0:
        watch.peers.lasting.set(RUN, json.dumps(str(folder.root.absolute())))


def note_finished(watch: Watch | None) -> None:
    """Note that nothing is to be gone on with, on the main process."""
    if watch is not None and watch.peers.place.rank == 0:
        watch.peers.lasting.delete_key(RUN)
