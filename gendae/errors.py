"""What went wrong, in one line."""

import re


def reason(error: BaseException) -> str:
    """The message of an error, without what jsonargparse wraps around the message of a constructor.

    Example:
        >>> reason(ValueError("Does not validate\\nErrors:\\n  - lr_f=-1.0\\n  - Expected a <class 'NoneType'>\\nGiven .."))
        'lr_f=-1.0'
    """
    inner = re.search(r"Errors:\s*- (.*)\s- Expected a <class 'NoneType'>", str(error), re.DOTALL)
    return shortened(" ".join((inner[1] if inner else str(error)).split()) or type(error).__name__)


def shortened(text: str, most: int = 480) -> str:
    """A text with its middle left out where it is longer than `most` characters.

    Example:
        >>> shortened("0123456789", 8)
        '01 .. 89'
    """
    kept = (most - 4) // 2
    return text if len(text) <= most else f"{text[:kept]} .. {text[-kept:]}"
