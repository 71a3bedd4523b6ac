"""The page of all commands with their arguments and options, from the command line itself."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from segmae import cli

INTRODUCTION = f"""# Commands

Made from the command line itself; `segmae COMMAND --help` prints the same. {str(cli.__doc__).split(chr(10), 2)[2].strip()} An option
that is not given leaves the choice to the Python function behind the command, whose default is named here; see [API](api.md).
"""


def page() -> str:
    """Markdown: a heading for each command, with what it does, how it is called and a table of its options."""
    return INTRODUCTION + "".join(_sections(get_command(cli.app), "segmae"))


def _sections(command: Any, path: str) -> list[str]:
    if hasattr(command, "commands"):
        inner = [
            text for name, found in command.commands.items() for text in _sections(found, f"{path} {name}")
        ]
        return inner if path == "segmae" else [f"\n## {path}\n\n{command.help}\n", *inner]
    depth = "##" if path.count(" ") == 1 else "###"
    arguments = [_name(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([path, *arguments, "[OPTIONS]"])
    lines = [f"\n{depth} {path}\n", f"{command.help or ''}\n", f"```\n{usage}\n```\n"]
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    lines += ["| | |", "| --- | --- |", *rows] if rows else []
    return ["\n".join(lines) + "\n"]


def _name(parameter: Any) -> str:
    """An argument as it is called, in brackets where it may be left out; an option's spellings and what follows it."""
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name.upper()).strip("{}")
        return name if parameter.required or name.startswith("[") else f"[{name}]"
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(sorted(parameter.opts, key=len)) + value


def _row(parameter: Any) -> str:
    text = (parameter.help or "").replace("|", "\\|")
    if parameter.required:
        text += " Required."
    elif isinstance(parameter.show_default, str):
        text += f" Default: {parameter.show_default}."
    return f"| `{_name(parameter).replace('|', ' or ')}` | {text} |"
