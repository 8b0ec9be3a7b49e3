"""What went wrong, in one line."""

import re


def reason(error: BaseException) -> str:
    """The message of an error, without what jsonargparse wraps around a constructor's message.

    Example:
        >>> wrapped = (
        ...     "Does not validate\\nErrors:\\n  - lr_f=-1.0\\n"
        ...     "  - Expected a <class 'NoneType'>\\nGiven .."
        ... )
        >>> reason(ValueError(wrapped))
        'lr_f=-1.0'
    """
    text = str(error)
    inner = re.search(r"Errors:\s*- (.*)\s- Expected a <class 'NoneType'>", text, re.DOTALL)
    if inner:
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
