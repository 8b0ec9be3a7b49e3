"""Which data a model was trained on: the SHA-256 of the arrays decides, not the name of a class.

A data set that was read from files is named by its hash; those in `KNOWN` have a name. A model
keeps both, and they are compared when its data are opened again.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Names of data sets by the SHA-256 of their arrays, see `gendae.storage.model_file.digest`.
KNOWN = {
    "fccb08d693541e1dc5bcc9b0a42bf753ab1fd196d40d58c5164d46f35b1953a2": "MNIST",
    "dfbe99781f877b273ed805029fbf9795db1dc564ac9279103b212a96d708f4c6": "FashionMNIST",
}
#: Digits of a hash that are shown where two are told apart.
SHOWN = 12


class Identity(NamedTuple):
    """Arrays that were read from files.

    Args:
        sha256: of the arrays.
        place: file or folder that they come from; None where a model records them.

    Example:
        >>> Identity("0123456789abcdef").name
        'sha256:0123456789ab'
    """

    sha256: str
    place: str | None = None

    @property
    def name(self) -> str:
        """The name of a known data set; of another one the beginning of its hash."""
        return KNOWN.get(self.sha256, f"sha256:{self.sha256[:SHOWN]}")

    def fact(self) -> dict[str, str]:
        """What a model remembers."""
        return {"name": self.name, "sha256": self.sha256}


def recorded(facts: Mapping[str, Any]) -> Identity | None:
    """The data that a model remembers; None where its file names no arrays.

    Earlier versions recorded the class alone: MNIST then stands for MNIST.
    """
    fact = facts.get("data")
    if isinstance(fact, dict) and isinstance(fact.get("sha256"), str):
        return Identity(fact["sha256"])

    spec = facts.get("dataset")
    while isinstance(spec, dict) and "source" in spec:
        spec = spec["source"]
    if not isinstance(spec, dict):
        return None

    return next((Identity(sha) for sha, name in KNOWN.items() if name == spec.get("type")), None)


def difference(found: Identity | None, facts: Mapping[str, Any]) -> str | None:
    """How the data found differ from those that a model remembers, in words; None if they do not.

    Example:
        >>> print(difference(Identity("1" * 64, "x.npy"), {"data": {"sha256": "2" * 64}}))
        x.npy holds other data than the model was trained on: sha256:111111111111, not sha256:22...
    """
    expected = recorded(facts)
    if found is None or expected is None or found.sha256 == expected.sha256:
        return None

    return (
        f"{found.place} holds other data than the model was trained on: {found.name}, not "
        f"{expected.name}"
    )


def origin(spec: Any) -> Any:  # noqa: ANN401 - a description, or what a file has in its place
    """What a described data set says of where it comes from, without how it is split and batched.

    Example:
        >>> origin({"type": "Images", "path": "x.npy", "seed": 3})
        {'type': 'Images', 'path': 'x.npy'}
    """
    if not isinstance(spec, dict):
        return spec

    said = {key: spec[key] for key in ("type", "path", "files") if key in spec}
    if "source" in spec:
        said["source"] = origin(spec["source"])
    return said
