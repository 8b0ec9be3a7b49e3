"""Which data a model was trained on: the SHA-256 of the arrays decides, not the name of a class.

A data set that was read from files is named by its hash; those in `KNOWN` have a name. A model
keeps both, and they are compared when its data are opened again.

What is made of the arrays (bits that are drawn, images that are shifted) is in the description of
a data set. It is compared where a training goes on, by the arguments that a class calls decisive.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gendae.errors import shortened
from gendae.registry import registered, upgraded

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


def otherwise(ours: Any, theirs: Any) -> str | None:  # noqa: ANN401 - descriptions, or None
    """How a described data set makes its examples otherwise than another one; None if it does not.

    Args:
        ours: that of now.
        theirs: that of a checkpoint, of this or an earlier version; what it leaves out is as the
            constructors have it.

    Raises:
        ValueError: for one that no version has written.

    Example:
        >>> digits = {"type": "Digits"}
        >>> otherwise({"type": "Binarised", "source": digits}, digits)
        'Binarised of Digits (was Digits)'
    """
    now = list(_chain(ours))
    then = list(_chain(upgraded(theirs)))
    if not now or not then:
        return None

    makers = [[spec for spec in chain if _decisive(spec)] for chain in (now, then)]
    kinds = [[spec["type"] for spec in chain] for chain in makers]
    if kinds[0] != kinds[1]:
        names = [" of ".join(spec["type"] for spec in chain) for chain in (now, then)]
        return f"{names[0]} (was {names[1]})"

    return next(_changes(*makers), None)


def _chain(spec: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a description, or none
    """A described data set, and those that it is made of, one after the other."""
    while isinstance(spec, dict) and isinstance(spec.get("type"), str):
        yield spec
        spec = spec.get("source")


def _decisive(spec: dict[str, Any]) -> tuple[str, ...]:
    return getattr(registered(spec["type"]), "decisive", ())


def _changes(now: list[dict[str, Any]], then: list[dict[str, Any]]) -> Iterator[str]:
    """Decisive arguments that differ between descriptions of the same classes, in words."""
    for ours, theirs in zip(now, then, strict=True):
        kind = registered(ours["type"])
        assert kind is not None  # it says which arguments are decisive
        parameters = inspect.signature(kind).parameters

        for name in _decisive(ours):
            values = [spec.get(name, parameters[name].default) for spec in (ours, theirs)]
            if values[0] != values[1]:
                value, former = (shortened(repr(each), 60) for each in values)
                yield f"{ours['type']}.{name}={value} (was {former})"
