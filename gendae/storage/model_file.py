"""Trained stacks as files that hold data only.

A shipped model is one .safetensors. It holds tensors, and as JSON in its metadata the
architecture, the settings it is meant to be used with, training facts, a SHA-256 of the tensors,
and one of this description. Lightning's .ckpt is read too, with `weights_only=True`. Loading
either builds registered classes from plain data and runs no code of the file. A damaged or foreign
file is never loaded in part.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from gendae import checks
from gendae.errors import nearest
from gendae.layers.affine import Affine
from gendae.models.classifier import Classifier
from gendae.models.settings import Facts
from gendae.models.stack import Stack
from gendae.registry import describe
from gendae.storage import hub, verify
from gendae.storage.atomic import write_whole
from gendae.storage.description import described
from gendae.storage.owned import check_plain
from gendae.storage.sealed import CheckpointError, read, regular_file
from gendae.storage.shipped import shipped_files

FORMAT = "gendae/1"
#: Where models lie that come with gendae, below the roots of `shipped_files`.
MODELS = "checkpoints/*.safetensors"
#: Metadata of a .safetensors; the last one, of the description, is missing in files of earlier
#: versions.
METADATA = ("format", "gendae", "sha256")


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes of all tensors: safetensors itself has no checksum."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def save(stack: Stack, path: str | Path, half: bool = False) -> Path:
    """Write the stack, its fitted prior, settings and facts to a .safetensors file, atomically.

    Args:
        stack: what to write.
        path: FILE.safetensors.
        half: store floating-point numbers in half precision, 11 bits of mantissa; `load` gives
            single precision.

    Raises:
        ValueError: if the suffix is not .safetensors, a setting cannot be stored as plain data,
            weights are NaN or infinite, or two layers share them.
        OSError: if the file cannot be written; an earlier one is then as it was.
    """
    stack = checks.kind("stack", checks.plain(stack), Stack)
    checks.untied("stack", stack)

    tensors = {k: v.detach().cpu().contiguous() for k, v in _filled(stack.state_dict()).items()}
    bad = verify.non_finite(tensors)
    if bad:
        raise ValueError(f"{path} is not written: {verify.some(bad)} hold NaN or infinite values")

    if half:
        tensors = {name: _halved(value) for name, value in tensors.items()}
        large = verify.non_finite(tensors)
        if large:
            raise ValueError(
                f"half=True: {', '.join(large)} hold numbers above 65504; save in single precision"
            )

    content = {
        "stack": describe(stack),
        "settings": describe(stack.settings.chosen()),
        "facts": stack.facts,
    }
    return write_checked(Path(path), FORMAT, content, tensors)


def _filled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that hold numbers: those of a prior that was never fitted are empty."""
    return {name: value for name, value in tensors.items() if value.numel()}


def _halved(value: Tensor) -> Tensor:
    if value.is_floating_point():
        return value.half()
    return value


def load(path: str | Path, device: str | torch.device = "cpu") -> Stack:
    """A trained stack.

    Args:
        path: a .safetensors, a Lightning .ckpt, a folder that holds model.safetensors, the bare
            name of a shipped model, or hf://USER/MODEL[@REVISION], a model on the hub.
        device: where to put it.

    Raises:
        FileNotFoundError: if there is no such file or shipped model; names every place. If the hub
            has no such model, or is out of reach.
        CheckpointError: (a ValueError) if the file is damaged, truncated, foreign, or of another
            architecture than it says; if a shipped model is not the one in the manifest.
    """
    file = locate(path)
    device = checks.device(str(device))
    if file == _shipped(path):
        check_shipped(file)

    if file.suffix == ".ckpt":
        stack = load_ckpt(file, read(file))
    else:
        stack = _load_safetensors(file)
    return stack.to(device).eval()


def pretrained_classifier(model: str, classes: int = 10, init: str = "orthogonal") -> Classifier:
    """The layer pairs of a trained stack under a fresh output layer, to be trained with labels.

    For configurations
    (`stack: {class_path: gendae.pretrained_classifier, init_args: {model: ..}}`).
    A model trained from it holds its own weights: `load` reads it without `model`, which only the
    run's config.yaml still names.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model; an output layer it has is
            left out.
        classes: number of classes.
        init: kind of the output layer's initial weights, see `Affine`.

    Raises:
        FileNotFoundError, CheckpointError: see `load`.
        ValueError: for less than one class, or an unknown kind of weights.

    Example:
        >>> import tempfile
        >>> from gendae.models.architectures import deep_autoencoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save(deep_autoencoder([8, 4]), f"{folder}/m.safetensors")
        ...     network = pretrained_classifier(str(file), 3)
        >>> network.sizes, network.classes
        ([8, 4], 3)
    """
    trained = load(model)
    output = Affine(trained.sizes[-1], classes, "linear", init=init)
    classifier = Classifier(*trained.pairs, output=output)
    classifier.facts["pretrained"] = str(model)
    return classifier.train()


# -- files and their places -----------------------------------------------------------------------


def shipped() -> list[str]:
    """Names of the checkpoints that come with gendae."""
    return list(shipped_files(MODELS))


def locate(path: str | Path) -> Path:
    """The file that a path, or the name of a model that is shipped or on the hub, stands for."""
    if hub.is_of_hub(path):
        return regular_file(hub.fetched(str(path)))

    path = checks.path("model", path)
    named = _shipped(path)
    if named is not None:
        return regular_file(named)
    if (path / hub.FILE).is_file():  # a folder, as the hub has them
        path = path / hub.FILE

    try:
        return regular_file(path)
    except FileNotFoundError as error:
        what = "a link to nothing" if path.is_symlink() else "there is no such file"
        models = shipped_files(MODELS)
        line = (
            f"no model {str(path)!r}: {what}, and the shipped models are "
            f"{', '.join(models) or 'none'}"
        )
        near = nearest(str(path), models)
        if near is not None:
            line += f"; did you mean {near}?"
        raise FileNotFoundError(line) from error


def _shipped(path: str | Path) -> Path | None:
    """The file of a shipped model, if its bare name is meant: a file of this name comes first."""
    if hub.is_of_hub(path) or checks.path("model", path).is_file():
        return None

    return shipped_files(MODELS).get(str(path))


def check_shipped(path: Path) -> None:
    """Raise a CheckpointError unless a shipped file is as the manifest beside it says."""
    manifest = path.parent / "manifest.json"
    try:
        expected = {
            entry["file"]: entry["sha256"]
            for entry in json.loads(manifest.read_text(encoding="utf-8"))
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(manifest, f"cannot be read ({type(error).__name__})") from None

    if expected.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest():
        raise CheckpointError(
            path, "not the file that was shipped: its checksum is not that of manifest.json"
        )


# -- a .safetensors -------------------------------------------------------------------------------


def _load_safetensors(path: Path) -> Stack:
    return _assemble(path, *read_checked(path, FORMAT))


def read_checked(path: Path, form: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of a .safetensors of this format, its checksum verified.

    Raises:
        CheckpointError: if the file is damaged, truncated or foreign.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # noqa: BLE001 - torch refuses types of numbers in its own words
        raise CheckpointError(
            path, f"damaged, truncated or not a safetensors file ({error})"
        ) from None

    if metadata.get("format") != form:
        raise CheckpointError(path, f"a safetensors file, but not one that gendae wrote as {form}")

    text = metadata.get("gendae", "")
    known_keys = tuple(sorted(metadata)) in (METADATA[:2], METADATA)
    if not known_keys or metadata.get("sha256", _sha256(text)) != _sha256(text):
        raise CheckpointError(
            path, "its description is damaged: it does not have the checksum it was saved with"
        )

    try:
        content = json.loads(text)
        expected = content["sha256"]
        check_plain("description", content)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(path, f"its description is damaged ({error})") from None

    if digest(tensors) != expected:
        raise CheckpointError(
            path, "damaged: its weights do not have the checksum they were saved with"
        )
    return content, tensors


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_checked(
    path: Path, form: str, content: dict[str, Any], tensors: dict[str, Tensor]
) -> Path:
    """Write description, tensors and their checksums to a .safetensors, whole or not at all."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a model is saved as .safetensors")

    text = json.dumps({**content, "sha256": digest(tensors)})
    metadata = dict(zip(METADATA, (form, text, _sha256(text)), strict=True))
    return write_whole(path, to_bytes(tensors, metadata))


# -- a .ckpt --------------------------------------------------------------------------------------


def load_ckpt(path: Path, checkpoint: Any) -> Stack:  # noqa: ANN401 - whatever was saved
    """The stack in the content of a .ckpt, as `archive.read` gives it."""
    verify.check_content(path, checkpoint)

    arguments = checkpoint["hyper_parameters"]
    content = {
        "stack": arguments.get("stack"),
        "settings": checkpoint["gendae"].get("settings") or _former_settings(arguments),
        "facts": checkpoint["gendae"]["facts"],
    }

    prefix = "stack."
    weights = checkpoint["state_dict"]
    tensors = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return _assemble(path, content, tensors)


def _former_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Settings from the arguments of a rule, which held them in files of version 0.1."""
    names = {
        "sampler": "sampler",
        "inpainter": "inpainter",
        "completer": "completer",
        "samples": "eval_samples",
    }
    return {name: arguments.get(former) for name, former in names.items()}


# -- the stack ------------------------------------------------------------------------------------


def _assemble(path: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> Stack:
    """The stack that a description and all its tensors make, or a CheckpointError."""
    try:
        stack, settings, facts = described(content, tensors.values())
        fresh = stack.state_dict()
    except Exception as error:  # noqa: BLE001 - a damaged description can ask for anything
        reason = str(error) or type(error).__name__
        raise CheckpointError(path, f"holds another architecture than it says: {reason}") from None

    complete = {**_unfitted(path, fresh, tensors, verify.later(stack)), **tensors}
    verify.check_weights(path, stack, complete, exact=False)
    verify.check_measured(path, stack, complete)
    verify.check_prior(path, stack.prior, complete, "prior.", stack.sizes[-1])

    stack.load_state_dict(complete)
    stack.settings = settings
    stack.facts = cast(Facts, facts)
    return stack


def _unfitted(
    path: Path, fresh: dict[str, Tensor], tensors: dict[str, Tensor], later: set[str]
) -> dict[str, Tensor]:
    """The empty tensors that a file may leave out; a CheckpointError, if it leaves out others.

    Empty tensors, of a prior that was never fitted, are not written; files of earlier versions
    have no residuals. A prior is fitted as a whole: a file leaves out all its tensors, or none,
    but for those that came later.
    """
    empty = [name for name, value in fresh.items() if value.numel() == 0]
    left_out = [name for name in empty if name not in tensors]
    of_prior = [name for name in empty if name.startswith("prior.")]

    missing = sorted(name for name in of_prior if name not in tensors and name not in later)
    fitted = any(name in tensors and tensors[name].numel() > 0 for name in of_prior)
    if missing and fitted:
        raise CheckpointError(
            path, f"holds another architecture than it says: {verify.some(missing)} missing"
        )
    return {name: fresh[name] for name in left_out}
