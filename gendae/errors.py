"""What went wrong, in one line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: Most names that a message lists; of more, the nearest few stand for all.
MANY = 30
FEW = 5
#: Most characters of a mistyped name that are compared with others.
LONGEST = 100


def reason(error: BaseException) -> str:
    """The message of an error, without what jsonargparse wraps around a constructor's message.

    It wraps once for each object that holds the one whose constructor refused.

    Example:
        >>> wrapped = (
        ...     "Does not validate\\nErrors:\\n  - lr_f=-1.0\\n"
        ...     "  - Expected a <class 'NoneType'>\\nGiven .."
        ... )
        >>> reason(ValueError(wrapped))
        'lr_f=-1.0'
    """
    text = str(error)
    wrapped = re.compile(r"Errors:\s*- (.*)\s- Expected a <class 'NoneType'>", re.DOTALL)
    while inner := wrapped.search(text):
        text = inner[1]

    one_line = " ".join(text.split())
    return shortened(one_line or type(error).__name__)


def shortened(text: str, most: int = 480) -> str:
    """A text with its middle left out where it is longer than `most` characters.

    Example:
        >>> shortened("0123456789", 8)
        '01 .. 89'
    """
    if len(text) <= most:
        return text

    kept = (most - 4) // 2
    return f"{text[:kept]} .. {text[-kept:]}"


def printable(text: str) -> str:
    r"""A text with every character escaped that would do more than show: it stays on its line.

    A file may hold control characters, which terminals obey.

    Example:
        >>> printable("red " + chr(27) + "[31m" + chr(10) + "next") == r"red \x1b[31m\nnext"
        True
        >>> printable("grün")
        'grün'
    """
    if text.isprintable():
        return text

    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(name: str, accepted: Iterable[str]) -> str | None:
    """The accepted name that a mistyped one is nearest to; None where all are far from it.

    Example:
        >>> nearest("MNSIT", ["Digits", "MNIST"])
        'MNIST'
    """
    by_lower_case = {word.lower(): word for word in accepted}
    near = get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
    if not near:
        return None

    return by_lower_case[near[0]]


def choice(name: str, accepted: Iterable[str]) -> str:
    """What a message says after a wrong name: all that is accepted, and the nearest of it.

    Of more than `MANY` names, the nearest few are listed.

    Example:
        >>> choice("rigth", ["left", "right"])
        'accepted: left, right; did you mean right?'
        >>> choice("32", map(str, range(100)))
        'accepted: 32, 3, 2, 93, 92 and 95 more; did you mean 32?'
    """
    name = name[:LONGEST]
    accepted = list(accepted)
    listed = accepted
    if len(accepted) > MANY:
        listed = get_close_matches(name, accepted, n=FEW, cutoff=0.0)

    words = f"accepted: {', '.join(listed)}"
    if len(listed) < len(accepted):
        words += f" and {len(accepted) - len(listed)} more"

    near = nearest(name, accepted)
    if near is not None:
        words += f"; did you mean {near}?"
    return words
