"""How docstrings are read: equations keep their lines, and "Example:" is a section.

The reader of docstrings knows that section in the plural alone.
"""

import re

import griffe

#: Columns that are lined up by spaces, as those of equations and lists of terms are.
ALIGNED = re.compile(r"\S {2,}\S")
#: Subscripts that Markdown would take for emphasis: h~_l, h^_{l-1}.
SUBSCRIPT = re.compile(r"(?<=[~^)\]'])_|_(?=\{)")
SECTION = re.compile(r"^(Args|Raises|Returns|Yields|Attributes|Examples?|Source):", re.MULTILINE)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text):
    """A docstring whose equations are blocks of code."""
    text = text.replace("Example:\n", "Examples:\n")
    found = SECTION.search(text)
    end = len(text) if found is None else found.start()

    paragraphs = text[:end].split("\n\n")
    return "\n\n".join(code(part) for part in paragraphs) + text[end:]


def code(paragraph):
    """The paragraph, indented if its lines are lined up."""
    lines = paragraph.split("\n")
    aligned = any(ALIGNED.search(line) for line in lines)
    if not aligned or lines[0].startswith(("|", "- ")):
        return SUBSCRIPT.sub(r"\_", paragraph)

    return "\n".join(f"    {line}" if line else line for line in lines)
