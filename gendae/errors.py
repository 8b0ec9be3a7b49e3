"""What went wrong, in one line."""

import re


def reason(error: BaseException) -> str:
    """The message of an error, without what jsonargparse wraps around the message of a constructor.

    Example:
        >>> reason(ValueError("Does not validate\\nErrors:\\n  - lr_f=-1.0\\n  - Expected a <class 'NoneType'>\\nGiven .."))
        'lr_f=-1.0'
    """
    inner = re.search(r"Errors:\s*- (.*)\s- Expected a <class 'NoneType'>", str(error), re.DOTALL)
    return " ".join((inner[1] if inner else str(error)).split())
