"""README stays short, and what it shows runs."""

import re
from pathlib import Path

from gendae.commands import fit, parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_is_short_and_its_links_exist():
    assert README.count("\n") < 120
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


def test_python_example_runs(mnist, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code.count("\n") < 30
    monkeypatch.chdir(tmp_path)
    quick = "Trainer(fast_dev_run=True, enable_progress_bar=False, accelerator='cpu')"
    names = {}
    exec(code.replace("Trainer(max_epochs=20)", quick), names)  # noqa: S102 - our own README
    assert names["x"].shape == names["y"].shape == names["again"].shape == (64, 784)
    assert (tmp_path / "mine.safetensors").is_file()


def test_every_configuration_is_complete():
    import yaml

    for path in (ROOT / "configs").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        assert {"seed_everything", "trainer", "model", "data"} <= set(content), path.name
