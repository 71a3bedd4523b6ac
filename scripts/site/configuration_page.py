"""The page of all settings with default, meaning and what is allowed, from the dataclasses of config.py and their comments."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from segmae import config

INTRODUCTION = """# Configuration

Made from the dataclasses in `segmae.config`, the only place with defaults. A recipe is a YAML file that names what differs;
`key.sub=value` on the command line comes last. Below, `losses.beta` is written in a recipe as

```yaml
losses:
  beta: 0.1
```

The choices and ranges are checked before anything starts, and an unknown key is refused with the nearest name.
"""
FIELD = re.compile(r"^    (\w+): ([^=]+?) = (.*?)(?:  # (.*))?$")


def page() -> str:
    """Markdown: a table for the run itself and for each group of settings."""
    tables = [_table(config.Config, "", "The run")]
    for item in dataclasses.fields(config.Config):
        default = _default(item)
        if dataclasses.is_dataclass(default):
            tables.append(_table(type(default), f"{item.name}.", item.name))
    return INTRODUCTION + "".join(tables)


def _table(kind: Any, prefix: str, title: str) -> str:
    comments = {}
    for line in inspect.getsource(kind).splitlines():
        if match := FIELD.match(line):
            comments[match[1]] = (match[2], match[4] or "")
    documentation = kind.__doc__ if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(") else ""
    lines = [
        f"\n## {title}\n",
        f"{documentation}\n",
        "| key | default | type | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for item in dataclasses.fields(kind):
        default = _default(item)
        if dataclasses.is_dataclass(default):
            continue
        key = prefix + item.name
        kind_text, meaning = comments[item.name]
        meaning = meaning.replace("|", "\\|")
        allowed = _allowed(key)
        words = "; ".join(part for part in (meaning, "" if meaning else allowed[0], allowed[1]) if part)
        lines.append(f"| `{key}` | `{_shown(default)}` | `{kind_text}` | {words} |")
    return "\n".join(lines) + "\n"


def _allowed(key: str) -> tuple[str, str]:
    """What config.py accepts: choices, and a range."""
    choices = " \\| ".join(config.CHOICES.get(key, ()))
    low, high = config.RANGES.get(key, (None, None))
    if low is None:
        return choices, ""
    above = "above 0" if low == config.TINY else f"at least {low:g}"
    if high == float("inf"):
        return choices, above
    return choices, f"{above}, below 1" if high == 1 - config.TINY else f"{above}, at most {high:g}"


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return repr(value) if isinstance(value, str) else str(value)
