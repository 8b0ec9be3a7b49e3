"""Models on the Hugging Face Hub, or a mirror of it: hf://USER/MODEL, hf://USER/MODEL@REVISION.

Of a repository one file is read, model.safetensors: it holds data only, and is checked as any
other. The library huggingface_hub fetches and keeps it, and obeys HF_ENDPOINT, HF_HOME, HF_TOKEN
and HF_HUB_OFFLINE.
"""

import re
from pathlib import Path

from gendae import checks
from gendae.errors import reason

PREFIX = "hf://"
#: The file of a repository, or of a folder, that holds the model.
FILE = "model.safetensors"


def is_of_hub(name: str | Path) -> bool:
    """Whether a name is that of a model on the hub."""
    return str(name).startswith(PREFIX)


def parts_of(name: str) -> tuple[str, str | None]:
    """Repository and revision of a name.

    Raises:
        ValueError: for names of another form.

    Example:
        >>> parts_of("hf://user/digits"), parts_of("hf://user/digits@v1.0")
        (('user/digits', None), ('user/digits', 'v1.0'))
    """
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@(\S+))?", name)
    if match is None:
        raise ValueError(f"{name}: {PREFIX}USER/MODEL or {PREFIX}USER/MODEL@REVISION is needed")

    return match[1], match[2]


def fetched(name: str) -> Path:
    """The file of a model on the hub, fetched unless it is on this machine already.

    Raises:
        ValueError: for a name of another form; without huggingface_hub.
        FileNotFoundError: if there is no such repository, revision or file, or no way there.
        OSError: if the hub refuses, or the transfer fails.
    """
    repository, revision = parts_of(name)
    library = checks.library("huggingface_hub", "hub", name)
    try:
        return Path(library.hf_hub_download(repository, FILE, revision=revision))
    except Exception as error:  # noqa: BLE001 - of two generations of HTTP clients
        raise _told(name, revision, error) from None


def _told(name: str, revision: str | None, error: Exception) -> OSError:
    """What a failure means, in one line."""
    from huggingface_hub import errors

    missing = (
        (errors.GatedRepoError, "it is not public; its owner has to grant access (HF_TOKEN)"),
        (errors.RepositoryNotFoundError, "there is no such model, or it is not public (HF_TOKEN)"),
        (errors.RevisionNotFoundError, f"there is no revision {revision!r}"),
        (errors.LocalEntryNotFoundError, "the hub is out of reach, and no copy is kept here"),
        (errors.EntryNotFoundError, f"it holds no {FILE}, the only file that is read"),
    )
    for kind, words in missing:
        if isinstance(error, kind):
            return FileNotFoundError(f"{name}: {words}")

    return OSError(f"{name}: cannot be fetched ({reason(error)})")
