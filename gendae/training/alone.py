"""What clusters and launchers leave in the environment of a process that trains alone.

A shell within a job, a pod or a torchrun script hands such variables down. They would make a
single process the third of four: without a run folder and a log of its own, or refused.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import Namespace

#: Variables that Lightning reads a process's place from, by their values where there is one.
OF_ONE_NODE = {"NODE_RANK": "0", "GROUP_RANK": "0"}
OF_ONE_PROCESS = OF_ONE_NODE | {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "JSM_NAMESPACE_RANK": "0",
    "JSM_NAMESPACE_LOCAL_RANK": "0",
    "JSM_NAMESPACE_SIZE": "1",
}


def forget_unreadable() -> None:
    """Forget variables that hold no number: Lightning fails on them when it is imported.

    A line names them.
    """
    unreadable = [name for name in OF_ONE_PROCESS if not _is_whole(os.environ.get(name, "0"))]
    for name in unreadable:
        value = os.environ.pop(name)
        print(f"gendae: {name}={value!r} of the environment not used", file=sys.stderr)


def _is_whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def forget_others(trainer: "Namespace") -> None:
    """Forget the places among several processes, or nodes, that a training has only one of.

    A line names the variables. Where all of them say that there is one process, they stay.

    Args:
        trainer: the options of a Trainer.
    """
    if trainer.num_nodes != 1:
        return

    values = OF_ONE_NODE if processes(trainer) > 1 else OF_ONE_PROCESS
    foreign = {name for name, one in values.items() if os.environ.get(name, one) != one}
    if not foreign:
        return

    for name in values:
        os.environ.pop(name, None)
    if values is OF_ONE_PROCESS:
        from pytorch_lightning.utilities import rank_zero_only

        rank_zero_only.rank = 0

    told = ", ".join(sorted(foreign))
    what = "process" if values is OF_ONE_PROCESS else "node"
    print(
        f"gendae: the options ask for one {what}: {told} of the environment not used",
        file=sys.stderr,
    )


def processes(trainer: "Namespace") -> int:
    """How many processes a node has, as the options of a Trainer say."""
    devices = trainer.devices
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)

    if str(devices) not in ("auto", "-1"):
        return int(devices)
    if trainer.accelerator == "cpu":
        return 1

    import torch

    return max(1, torch.cuda.device_count())
