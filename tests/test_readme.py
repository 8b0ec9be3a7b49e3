"""README stays short, and what it shows runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_is_short_and_its_links_exist():
    assert README.count("\n") < 120
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


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
