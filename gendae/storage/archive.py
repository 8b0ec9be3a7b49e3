"""How a Trainer writes and reads checkpoints: whole and sealed, see `sealed`.

Apart from `sealed`, so that who reads a model need not import Lightning, which takes longer than
all the rest.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import Strategy

from gendae.storage.atomic import write_whole
from gendae.storage.sealed import CheckpointError, read, seal

#: Where a checkpoint says which Lightning wrote it, and the versions that need no migration.
VERSION = "pytorch-lightning_version"
PRESENT = r"[2-9]\d?(\.\d+){1,2}(\.?(a|b|rc|post|dev)\d+)?"


class WholeFileIO(TorchCheckpointIO):
    """How a Trainer writes and reads checkpoints.

    On local disks it uses `write_whole` and `read`, elsewhere Lightning's way.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        if storage_options is not None or not is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return

        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(path, seal(buffer.getvalue()))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Content on the CPU; always with `weights_only=True`.

        Lightning moves to its present layout what it takes for a checkpoint of an earlier version.
        """
        if is_local(path):
            content = read(path)
            version = content.get(VERSION) if isinstance(content, dict) else None
            if not isinstance(version, str) or not re.fullmatch(PRESENT, version):
                raise CheckpointError(path, "not a checkpoint of Lightning 2 or later")
            return content
        return super().load_checkpoint(path, "cpu", weights_only=True)


def is_local(path: str | Path) -> bool:
    """Whether a path names a file of this machine, not a URL."""
    return "://" not in str(path)


def install(strategy: Strategy) -> None:
    """Let a Trainer write whole files where it would use Lightning's own plugin.

    Another plugin is left alone.
    """
    plugin = strategy.checkpoint_io
    if type(plugin) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFileIO()
        return

    # a plugin may wrap Lightning's own one, to write in a thread
    wrapped = getattr(plugin, "_checkpoint_io", None)
    if type(wrapped) is TorchCheckpointIO:
        plugin._checkpoint_io = WholeFileIO()
