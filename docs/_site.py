"""Pages of the documentation site that come from elsewhere: options, commands, recipes, changes.

mkdocs calls this (mkdocs.yml, hooks); the site is built by `make docs`.
"""

import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

from mkdocs.structure.files import File
from option_texts import leaves, text_of  # beside this file

from rocketjax.__main__ import COMMANDS
from rocketjax.config.schema import Config

ROOT = Path(__file__).parents[1]
SOURCE = "https://github.com/OWNER/rocketjax/blob/main/"


def on_files(files, config):
    """Adds the pages that are made here."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pages = {"options": options(), "commands": commands(), "recipes": recipes(), "changes": changes}
    for name, content in pages.items():
        files.append(File.generated(config, f"{name}.md", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside of docs/ lead to the repository; doctest-like fences stay plain."""
    del page, config, files
    return re.sub(r"\]\(\.\./(?!docs/)", f"]({SOURCE}", markdown)


def options():
    """Every option, by section, with its default and what it says of itself."""
    lines = ["# Options", "", "As `--section.option` on the command line, nested in a config file."]
    default, sections = Config(), {}
    for cls, field, option in leaves(Config):
        shown = " ".join(text_of(cls, field).split()).replace("|", "\\|").replace("<", "&lt;")
        row = f"| `{field}` | `{attrgetter(option)(default)!r}` | {shown} |"
        sections.setdefault(option.rpartition(".")[0], []).append(row)
    for name, rows in sections.items():
        lines += ["", f"## {name or 'The run'}", ""]
        lines += ["| option | default | |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def recipes():
    """Every config file: what its first lines say of it, and all of it."""
    lines = ["# Recipes", "", "They come with the package: `--config NAME`."]
    lines += ["Those of the [ablations](ablation.md) change one thing each of the base `ablation`."]
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        text = path.read_text(encoding="utf-8").rstrip()
        lines += ["", f"## {name}", "", "```yaml", text, "```"]
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
