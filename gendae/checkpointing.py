"""Checkpoints that are written whole or not at all, and looked through before anything is taken from them.

A file is written beside its place, flushed to the disk and renamed: whatever happens, its name stands for the earlier
file or for the new one. A .ckpt is the ZIP archive that torch writes, with a SHA-256 of all its bytes as the archive's
comment; archives without one (of other programs, or of earlier versions) have their checksums of each entry compared.
Only plain data and tensors are read: a file that asks for more is refused, and no code of it runs.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import Strategy

from gendae.writing import write_whole

END, END_SIZE = b"PK\x05\x06", 22  # of a ZIP archive; behind it there is nothing but a comment
SEAL = b"gendae sha256 "
SEALED = len(SEAL) + 64


class CheckpointError(ValueError):
    """A file that does not hold a usable model; the message names file and reason.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = Path(path), reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


# -- the archive and its seal -----------------------------------------------------------------------------


def seal(archive: bytes) -> bytes:
    """A ZIP archive without comment, with the SHA-256 of all its bytes as comment: readers of ZIP files still read it."""
    if archive[-END_SIZE : -END_SIZE + 4] != END:
        return archive
    sealed = archive[:-2] + SEALED.to_bytes(2, "little") + SEAL
    return sealed + hashlib.sha256(sealed).hexdigest().encode()


# -- reading -----------------------------------------------------------------------------------------------


def regular_file(path: str | Path) -> Path:
    """The path, if a file is there.

    Raises:
        FileNotFoundError: if nothing is there.
        CheckpointError: for folders, pipes and whatever else is no file, and where one may not look.
    """
    path = Path(path)
    try:
        if not path.exists():
            what = (
                "a link to a file that does not exist"
                if path.is_symlink()
                else "there is no such file"
            )
            raise FileNotFoundError(f"{path}: {what}")
        if not path.is_file():
            raise CheckpointError(
                path, "a folder, not a file" if path.is_dir() else "not a regular file"
            )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    return path


def read(path: str | Path) -> Any:  # noqa: ANN401 - whatever was saved
    """The content of a .ckpt, on the CPU, its checksums compared.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it cannot be read, is damaged, truncated or no checkpoint, or holds more than plain data and
            tensors.
    """
    path = regular_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    _check_archive(path, data)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises a dozen kinds
        wanted = re.search(
            r"[Uu]nsupported (?:global: )?(?:GLOBAL|class|operand) ([\w.]+)", str(error)
        )
        reason = f" (it asks for {wanted[1]}, which could run code)" if wanted else ""
        raise CheckpointError(path, f"cannot be read as plain data and tensors{reason}") from None


def _check_archive(path: Path, data: bytes) -> None:
    """Raise a CheckpointError unless all bytes are those that were written."""
    if not data:
        raise CheckpointError(path, "empty")
    end = data.rfind(END, max(0, len(data) - END_SIZE - 0xFFFF))
    if end < 0 or len(data) < end + END_SIZE:
        raise CheckpointError(path, "damaged, truncated or not a Lightning checkpoint")
    comment = data[end + END_SIZE :]
    if int.from_bytes(data[end + 20 : end + 22], "little") != len(comment):
        raise CheckpointError(path, "damaged: it does not end where it says")
    seal_ = SEAL + hashlib.sha256(data[:-64]).hexdigest().encode()
    if comment and comment != seal_:
        raise CheckpointError(path, "damaged: it does not have the checksum it was saved with")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
    except Exception as error:  # noqa: BLE001 - zipfile and zlib raise a dozen kinds
        raise CheckpointError(
            path, f"damaged ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
    if damaged:
        raise CheckpointError(path, f"damaged: {damaged} does not have its checksum")


# -- within a Trainer --------------------------------------------------------------------------------------


class WholeFileIO(TorchCheckpointIO):
    """How a Trainer writes and reads checkpoints: `write_whole` and `read` on local disks, Lightning's way elsewhere."""

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
        """Content on the CPU; always with `weights_only=True`."""
        return (
            read(path)
            if is_local(path)
            else super().load_checkpoint(path, "cpu", weights_only=True)
        )


def is_local(path: str | Path) -> bool:
    """Whether a path names a file of this machine, not a URL."""
    return "://" not in str(path)


def install(strategy: Strategy) -> None:
    """Let a Trainer write whole files where it would use Lightning's own plugin; another one is left alone."""
    plugin = strategy.checkpoint_io
    if type(plugin) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeFileIO()
    elif (
        type(getattr(plugin, "_checkpoint_io", None)) is TorchCheckpointIO
    ):  # wrapped, to write in a thread
        plugin._checkpoint_io = WholeFileIO()
