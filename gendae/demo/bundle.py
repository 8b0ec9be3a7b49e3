"""The page and its models as files: served, or as a folder that needs no server."""

import base64
import json
from functools import cache
from pathlib import Path

from gendae.demo.weights import Numbers

FOLDER = Path(__file__).with_name("page")
#: The place in index.html where the page learns where its modules are.
SERVED = '"gendae/": "./"'


@cache
def page_files() -> dict[str, bytes]:
    """Names and contents of the page's own files."""
    return {file.name: file.read_bytes() for file in sorted(FOLDER.iterdir())}


def model_script(role: str, model: Numbers) -> bytes:
    """A script that gives the page a model: scripts load from files too, where JSON may not.

    Args:
        role: what the page asks for: images, joint or toy.
        model: see `gendae.demo.weights.page_model`.
    """
    text = json.dumps(model, separators=(",", ":"))
    return f"(globalThis.gendaeModels ??= {{}})[{json.dumps(role)}] = {text};\n".encode()


def standalone() -> bytes:
    """index.html with styles and modules inside: browsers load no modules from files."""
    files = page_files()
    modules = {}
    for name, content in files.items():
        if name.endswith(".js"):
            modules[f"gendae/{name}"] = _data_url(content)

    page = files["index.html"].decode()
    style = files["style.css"].decode()
    page = page.replace('<link rel="stylesheet" href="style.css">', f"<style>\n{style}</style>")
    page = page.replace(f"{{{SERVED}}}", json.dumps(modules, indent=0))

    return page.encode()


def _data_url(script: bytes) -> str:
    return "data:text/javascript;base64," + base64.b64encode(script).decode()
