"""README stays short, and what it shows runs."""

import re
from pathlib import Path

from gendae.commands import fit, parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_is_short_and_its_links_exist():
    assert README.count("\n") < 120
    assert max(map(len, README.splitlines())) <= 100
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_command_line_s_page_has_every_command_and_option():
    page = (ROOT / "docs/cli.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link
    for name in parser.COMMANDS:
        assert f"gendae {name}" in page
        if name in parser.TRAINING:
            rows = fit.OPTIONS
        else:
            options = parser.parser(name)._actions[1:]
            rows = {(o.option_strings or [o.metavar])[0]: o.help for o in options}
        for option, text in rows.items():
            row = f"| `{option}` | {text} |"
            assert row in page.replace("\\|", "|"), row


def test_python_examples_run(tmp_path, monkeypatch):
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert first.count("\n") + second.count("\n") < 30
    monkeypatch.chdir(tmp_path)
    quick = "Trainer(max_epochs=1, enable_progress_bar=False, accelerator='cpu', logger=False)"
    names = {}
    exec(first.replace("Trainer(max_epochs=20)", quick), names)  # noqa: S102 - our own README
    assert names["samples"].shape == names["filled"].shape == names["again"].shape == (64, 64)
    assert (tmp_path / "stack.safetensors").is_file()

    exec(second, names)  # noqa: S102


def test_every_configuration_is_complete():
    import yaml

    for path in (ROOT / "configs").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        assert {"seed_everything", "trainer", "model", "data"} <= set(content), path.name
