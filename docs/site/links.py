"""Links of the documents that lead out of docs/: on the site, their targets are named instead."""

import re


def on_page_markdown(markdown, page, **_):
    up = "../" * (1 + page.file.src_uri.count("/"))
    outside = re.compile(rf"\[([^\]]+)\]\({re.escape(up)}[^)]*\)")
    return outside.sub(r"`\1`", markdown)
