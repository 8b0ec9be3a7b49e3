"""Checkpoints that carry a seal, and are checked before anything is taken of them.

A .ckpt is the ZIP archive that torch writes, with
a SHA-256 of all its bytes as the archive's comment. In archives without one (of other programs, or
of earlier versions) the checksum of each entry is compared. Only plain data and tensors are read:
a file that asks for more is refused, and no code of it runs.
"""

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from gendae.errors import printable, shortened
from gendae.storage import inputs
from gendae.storage.owned import SHARED, owned

#: Checkpoints of a run, as --which names them: best.ckpt is chosen by the score of the rule on
#: validation data, last.ckpt is written after every validation.
CHECKPOINTS = ("best", "last")
#: How the end of a ZIP archive begins, and its size; nothing but a comment follows it.
END = b"PK\x05\x06"
END_SIZE = 22
SEAL = b"gendae sha256 "
SEALED = len(SEAL) + 64


class CheckpointError(ValueError):
    """A file that does not hold a usable model; the message names file and reason.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        reason = shortened(printable(" ".join(reason.split())))
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


# -- the archive and its seal ---------------------------------------------------------------------


def seal(archive: bytes) -> bytes:
    """A ZIP archive without comment, with the SHA-256 of all its bytes as comment.

    Readers of ZIP files still read it.
    """
    if archive[-END_SIZE : -END_SIZE + 4] != END:
        return archive

    sealed = archive[:-2] + SEALED.to_bytes(2, "little") + SEAL
    return sealed + hashlib.sha256(sealed).hexdigest().encode()


# -- reading --------------------------------------------------------------------------------------


def regular_file(path: str | Path) -> Path:
    """The path, if it names a regular file.

    Raises:
        FileNotFoundError: if nothing has this name.
        CheckpointError: for folders, pipes and everything else that is no file, and for folders
            that may not be searched.
    """
    try:
        return inputs.regular_file(path)
    except ValueError as error:
        raise CheckpointError(path, str(error).removeprefix(f"{path}: ")) from None


def read(path: str | Path) -> Any:  # noqa: ANN401 - whatever was saved
    """The content of a .ckpt, on the CPU, its checksums compared, its tensors `owned`.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it cannot be read, is damaged, truncated or no checkpoint, or holds
            more than plain data and ordinary tensors, or more of them than its size allows.
    """
    path = regular_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    except MemoryError:
        raise CheckpointError(path, "does not fit into the memory") from None

    pickled = _check_archive(path, data)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises a dozen kinds
        reason = _refusal(str(error))
        raise CheckpointError(path, f"cannot be read as plain data and tensors{reason}") from None

    try:
        return owned(content, SHARED * len(data), pickled)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _refusal(message: str) -> str:
    """The class or function that a file asks for, if torch refused it; else nothing."""
    refused = r"[Uu]nsupported (?:global: )?(?:GLOBAL|class|operand) ([\w.]+)"
    wanted = re.search(refused, message)
    if wanted is None:
        return ""
    return f" (it asks for {wanted[1]}, which could run code)"


def _check_archive(path: Path, data: bytes) -> int:
    """The bytes of the pickle; a CheckpointError unless every byte is as it was written."""
    if not data:
        raise CheckpointError(path, "empty")

    end = data.rfind(END, max(0, len(data) - END_SIZE - 0xFFFF))
    if end < 0 or len(data) < end + END_SIZE:
        raise CheckpointError(path, "damaged, truncated or not a Lightning checkpoint")

    comment = data[end + END_SIZE :]
    comment_size = int.from_bytes(data[end + 20 : end + 22], "little")
    if comment_size != len(comment):
        raise CheckpointError(path, "damaged: it does not end where it says")

    expected = SEAL + hashlib.sha256(data[:-64]).hexdigest().encode()
    if comment and comment != expected:
        raise CheckpointError(path, "damaged: it does not have the checksum it was saved with")

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_sizes(path, entries, len(data))
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - zipfile and zlib raise a dozen kinds
        reason = str(error) or type(error).__name__
        raise CheckpointError(path, f"damaged ({reason})") from None

    if damaged:
        raise CheckpointError(path, f"damaged: {damaged} does not have its checksum")
    return sum(entry.file_size for entry in entries if entry.filename.endswith("/data.pkl"))


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise a CheckpointError where entries would take more memory than the file has bytes."""
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(path, "its entries are compressed or overlap, as torch writes none")
