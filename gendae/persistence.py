"""Trained stacks as files that hold data only.

A shipped model is one .safetensors: tensors, and as JSON in its metadata the architecture, the settings it
is meant to be used with, training facts and a SHA-256 of the tensors. Lightning's .ckpt is read too, with
`weights_only=True`. Loading either builds registered classes from plain data and runs no code of the file.
"""

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import gendae.invertible
import gendae.levels
import gendae.multimodal
import gendae.optimized
import gendae.rules  # noqa: F401 - these five register classes that files may name
from gendae import checks
from gendae.classifier import Classifier
from gendae.layers import Affine
from gendae.spec import build, describe
from gendae.stack import Stack

FORMAT = "gendae/1"


class CheckpointError(ValueError):
    """A file that does not hold a usable model; the message names file and reason."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


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
        half: store floating-point numbers in half precision, 11 bits of mantissa; `load` gives single precision.

    Raises:
        ValueError: if the suffix is not .safetensors, or a setting cannot be stored as plain data.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in stack.state_dict().items() if v.numel()}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        large = [k for k, v in tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
        if large:
            raise ValueError(f"half=True: {', '.join(large)} hold numbers above 65504; save in single precision")
    content = {
        "stack": describe(stack), "settings": describe(stack.settings), "facts": stack.facts,
    }
    return write_checked(Path(path), FORMAT, content, tensors)


def load(path: str | Path, device: str | torch.device = "cpu") -> Stack:
    """A trained stack from a .safetensors, a Lightning .ckpt, or the bare name of a shipped checkpoint.

    Raises:
        FileNotFoundError: if there is no such file or shipped model; names every place.
        CheckpointError: (a ValueError) if the file is damaged, truncated, foreign, or of another
            architecture than it says.
    """
    found, device = locate(path), checks.device(str(device))
    stack = _load_ckpt(found) if found.suffix == ".ckpt" else _load_safetensors(found)
    return stack.to(device).eval()


def pretrained_classifier(model: str, classes: int = 10, init: str = "orthogonal") -> Classifier:
    """The layer pairs of a trained stack under a fresh output layer, to be trained further with labels.

    For configurations (`stack: {class_path: gendae.persistence.pretrained_classifier, init_args: {model: ..}}`).
    What is trained from it holds its own weights: `load` reads it without `model`, which only the run's config.yaml
    still names.

    Args:
        model: a .ckpt, a .safetensors, or the name of a shipped model; an output layer it has is left out.
        classes: number of classes.
        init: kind of the output layer's initial weights, see `Affine`.

    Raises:
        FileNotFoundError, CheckpointError: see `load`.
        ValueError: for less than one class, or an unknown kind of weights.

    Example:
        >>> import tempfile
        >>> from gendae.models import deep_autoencoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     network = pretrained_classifier(str(save(deep_autoencoder([8, 4]), f"{folder}/m.safetensors")), 3)
        >>> network.sizes, network.classes
        ([8, 4], 3)
    """
    trained = load(model)
    output = Affine(trained.sizes[-1], classes, "linear", init=init)
    classifier = Classifier(*trained.pairs, output=output)
    classifier.facts["pretrained"] = str(model)
    return classifier.train()


def shipped_folders() -> list[Path]:
    """Where checkpoints that come with gendae lie: in the installed package, or in a source checkout."""
    package = Path(__file__).parent
    return [package / "checkpoints", package.parent / "checkpoints"]


def shipped() -> list[str]:
    """Names of the checkpoints that come with gendae."""
    return sorted({f.stem for folder in shipped_folders() for f in folder.glob("*.safetensors")})


def locate(path: str | Path) -> Path:
    """The file that a path or the name of a shipped model stands for."""
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if path.name == str(path) and not path.suffix:
        for folder in shipped_folders():
            candidate = folder / f"{path}.safetensors"
            if candidate.is_file():
                return candidate
    raise FileNotFoundError(f"no model {str(path)!r}: there is no such file, and the shipped models "
                            f"are {', '.join(shipped()) or 'none'}")


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
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(path, f"damaged, truncated or not a safetensors file ({error})") from None
    if metadata.get("format") != form:
        raise CheckpointError(path, f"a safetensors file, but not one that gendae wrote as {form}")
    try:
        content = json.loads(metadata["gendae"])
        expected = content["sha256"]
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(path, f"its description is damaged ({error})") from None
    if digest(tensors) != expected:
        raise CheckpointError(path, "damaged: its weights do not have the checksum they were saved with")
    return content, tensors


def write_checked(path: Path, form: str, content: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    """Write description, tensors and their checksum to a .safetensors, atomically."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a model is saved as .safetensors")
    text = json.dumps({**content, "sha256": digest(tensors)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, partial, metadata={"format": form, "gendae": text})
    os.replace(partial, path)
    return path


def _load_ckpt(path: Path) -> Stack:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(path, "damaged, truncated or not a Lightning checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise CheckpointError(path, f"damaged: {damaged} does not have its checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - torch and zipfile raise a dozen kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(path, f"cannot be read as a checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or "gendae" not in checkpoint:
        raise CheckpointError(path, "a checkpoint, but not one that gendae wrote")
    arguments = checkpoint["hyper_parameters"]
    content = {
        "stack": arguments["stack"],
        "settings": {"inference": arguments.get("inference"), "sampler": arguments.get("sampler"),
                     "inpainting": arguments.get("inpainter"), "completer": arguments.get("completer"),
                     "samples": arguments.get("eval_samples")},
        "facts": checkpoint["gendae"]["facts"],
    }
    prefix = "stack."
    tensors = {k[len(prefix):]: v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return _assemble(path, content, tensors)


def _assemble(path: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> Stack:
    try:
        stack = build(content["stack"])
        stack.settings = {k: v for k, v in build(content["settings"]).items() if v is not None}
        stack.facts = content["facts"]
        missing, unexpected = stack.load_state_dict(tensors, strict=False)
    except (KeyError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(path, f"holds another architecture than it says: {reason}") from None
    missing = [name for name in missing if not name.startswith("prior.")]
    if missing or unexpected:
        raise CheckpointError(path, "holds another architecture than it says: "
                                    f"missing {missing}, unexpected {unexpected}")
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(path, f"holds NaN or infinite weights in {', '.join(bad)}")
    return stack
