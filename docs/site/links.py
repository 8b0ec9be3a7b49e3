"""Links of the documents that lead out of docs/: on the site, their targets are named instead."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown, **_):
    return OUTSIDE.sub(r"`\1`", markdown)
