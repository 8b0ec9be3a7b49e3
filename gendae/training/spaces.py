"""Spaces of options that a search goes through: one YAML file, an option a line.

```yaml
model.rates.f: {low: 1e-4, high: 1e-2, log: true}    # real numbers
model.stack.sizes: [[64, 100, 20], [64, 200, 50]]    # a list of choices
trainer.max_epochs: {low: 10, high: 50, step: 10}    # whole numbers, since both ends are
```

An option is named as on the command line of `gendae fit`, without the dashes.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendae import checks
from gendae.errors import choice, reason, shortened
from gendae.training.mistakes import read_yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: What a range may say of itself.
KEYS = ("low", "high", "log", "step")
#: How the names of options begin that can be searched.
SECTIONS = ("model", "data", "trainer")


def read_space(path: str | Path) -> dict[str, "BaseDistribution"]:
    """The distributions, as optuna's, of the options that a YAML file names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, for what is no space; names the option.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} is no space: a line for each option is needed, such as "
            "model.rates.f: {low: 1e-4, high: 1e-2, log: true}"
        )

    space = {}
    for name, values in content.items():
        try:
            space[name] = _distribution(str(name), values)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {reason(error)}") from None

    return space


def _distribution(name: str, values: Any) -> "BaseDistribution":  # noqa: ANN401
    """What a line of a space stands for."""
    section, dot, _ = name.partition(".")
    if not dot or section not in SECTIONS:
        accepted = ", ".join(f"{section}.OPTION" for section in SECTIONS)
        raise ValueError(f"no option that can be searched; accepted: {accepted}")

    if isinstance(values, list):
        return _choices(values)
    if isinstance(values, dict):
        return _range(values)

    raise ValueError(
        f"{shortened(repr(values), 60)} is no space; {{low: .., high: ..}}, with log or step if "
        "you like, or a list of choices is needed"
    )


def _choices(values: list[Any]) -> "BaseDistribution":
    """Values one of which is taken, as they would be typed."""
    from optuna.distributions import CategoricalDistribution

    texts = [typed(value) for value in values]
    if not texts or len(set(texts)) < len(texts):
        raise ValueError(
            f"{shortened(repr(values), 60)}: one or more different choices are needed"
        )

    return CategoricalDistribution(texts)


def _range(values: dict[str, Any]) -> "BaseDistribution":
    """All numbers between two; whole ones, where both are whole and no step is a fraction."""
    from optuna.distributions import FloatDistribution, IntDistribution

    for key in values:
        if key not in KEYS:
            raise ValueError(f"{key!r} says nothing of a range; {choice(str(key), KEYS)}")

    low, high = (_number(key, values.get(key)) for key in ("low", "high"))
    log = checks.kind("log", values.get("log", False), bool)
    step = None if values.get("step") is None else _number("step", values["step"])
    if low >= high:
        raise ValueError(f"low={low}, high={high}: an empty range; low < high is needed")
    if log and (low <= 0 or step is not None):
        raise ValueError(f"log: true needs low > 0, which is {low}, and no step")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"step={step}: a number above 0, at most high - low, is needed")

    if all(isinstance(number, int) for number in (low, high, step or 1)):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _number(key: str, value: Any) -> float:  # noqa: ANN401
    """An end of a range; YAML reads 1e-4, without a point, as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass

    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{key}={value!r}: a finite number is needed")
    return value


def typed(value: Any) -> str:  # noqa: ANN401 - what YAML holds
    """A value as it is typed on the command line; a real number in six digits.

    Example:
        >>> typed([64, 20]), typed(True), typed("relu"), typed(0.1 + 0.2), typed(1e-05)
        ('[64, 20]', 'true', 'relu', '0.3', '1e-05')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"

    return json.dumps(value, default=str)


def options_of(values: dict[str, Any]) -> list[str]:
    """Values of options, by name, as arguments of the command line.

    Example:
        >>> options_of({"model.rates.f": 0.001, "data.batch_size": 50})
        ['--model.rates.f=0.001', '--data.batch_size=50']
    """
    return [f"--{name}={typed(value)}" for name, value in values.items()]
