"""Pages of the documentation site that come from the code: every option, every command.

mkdocs calls this (mkdocs.yml, hooks); the site is built by `make docs`.
"""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.structure.files import File

from rocketjax.__main__ import COMMANDS
from rocketjax.config.schema import Config

ROOT = Path(__file__).parents[1]
SOURCE = "https://github.com/OWNER/rocketjax/blob/main/"


def on_files(files, config):
    """Adds the pages of options and commands."""
    files.append(File.generated(config, "options.md", content=options()))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside of docs/ lead to the repository; doctest-like fences stay plain."""
    del page, config, files
    return re.sub(r"\]\(\.\./(?!docs/)", f"]({SOURCE}", markdown)


def options():
    """Every option, by section, with its default and what it says of itself."""
    texts = {}
    for path in sorted((ROOT / "rocketjax" / "config").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for item, after in zip(node.body, node.body[1:], strict=False):
                    if isinstance(item, ast.AnnAssign) and isinstance(after, ast.Expr):
                        texts[node.name, item.target.id] = ast.literal_eval(after.value)
    lines = ["# Options", "", "As `--section.option` on the command line, nested in a config file."]

    def section(value, prefix):
        rows, parts = [], []
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if dataclasses.is_dataclass(inner):
                parts.append((inner, f"{prefix}{field.name}."))
                continue
            owners = (cls.__name__ for cls in type(value).__mro__)
            text = next((texts[o, field.name] for o in owners if (o, field.name) in texts), "")
            shown = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
            rows.append(f"| `{field.name}` | `{inner!r}` | {shown} |")
        if rows:
            title = prefix.rstrip(".") or "The run"
            lines.extend(["", f"## {title}", "", "| option | default | |", "|---|---|---|", *rows])
        for part in parts:
            section(*part)

    section(Config(), "")
    return "\n".join(lines) + "\n"


def commands():
    """Every command's own help."""
    lines = ["# Commands"]
    for name, what in COMMANDS.items():
        help_ = subprocess.run(
            [sys.executable, "-m", "rocketjax", name, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "100", "PATH": "", "PYTHONPATH": str(ROOT), "TERM": "dumb"},
        ).stdout
        lines += ["", f"## rocketjax {name}", "", f"{what[0].upper()}{what[1:]}.", ""]
        lines += ["```text", help_.rstrip(), "```"]
    return "\n".join(lines) + "\n"
