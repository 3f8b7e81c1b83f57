"""Options from files and the command line: read, merged, checked, written and compared."""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tyro
import yaml

from rocketjax.config.checks import check
from rocketjax.config.index import as_read
from rocketjax.config.schema import Config
from rocketjax.runtime.errors import InputError, shown

Options = TypeVar("Options")
RECIPES = Path(__file__).parents[1] / "recipes"  # configs/, by a link
_MOST = 2**20  # characters of a config file


def load(path: str | Path, default: Config | None = None) -> Config:
    """Reads a config file; what it leaves out stays as in `default` (None: as in Config()).

    Args:
        path: of a file, or a recipe's name.
        default: what the file is laid over.

    Raises:
        InputError: what `find_recipe` or `read_values` raises, or a value that does not
            fit its field; file, line and field are named.
    """
    return checked(*_laid_over(find_recipe(Path(path)), default or Config()))


def load_own(path: Path) -> Config:
    """The config that a run wrote into its folder.

    An older version may have let options through that change nothing and are refused by now; the
    run opens all the same. What its index does not read counts as left out: so it resumes, too.

    Raises:
        InputError: what `read_values` raises, or a value that does not fit its field.
    """
    config = validated(Config, *_laid_over(path, Config()))
    return dataclasses.replace(config, index=as_read(config.index))


def _laid_over(path: Path, default: Config) -> tuple[dict[str, Any], Callable[[str], str]]:
    """All values, those of a file before those of a default; and where the file sets a name."""
    values, lines = read_values(path)
    merged = _merged(dataclasses.asdict(default), values)

    def place(name: str) -> str:
        line = lines.get(name) or lines.get(name.rpartition(".")[0], 1)  # an item of a field
        return f"{path}:{line}: {name}"

    return merged, place


def find_recipe(path: Path) -> Path:
    """The config file itself, or the recipe of that name which comes with the package ("msmarco").

    Raises:
        InputError: there is neither; the recipes are named.
    """
    path = path.expanduser()
    shipped = RECIPES / f"{path}.yaml"
    if path.suffix or (path.exists() and not path.is_dir()):  # a run's folder may have its name
        return path
    if not shipped.is_file():
        known = sorted(str(p.relative_to(RECIPES).with_suffix("")) for p in RECIPES.rglob("*.yaml"))
        raise InputError(f"{path}: no such config file, and no recipe: {', '.join(known)}")
    return shipped


def read_values(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """What a config file itself sets, nested as there, and the line of every dotted name.

    Raises:
        InputError: unreadable file, or unknown field (the nearest name is given).
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST)
            if file.read(1):
                raise InputError(f"{path}: too long for a config: more than {_MOST:,} characters")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the config: {error}") from error
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:  # an absurd value
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    lines: dict[str, int] = {}
    if node is not None:
        _check_names(Config, node, path, "", lines)
    return values, lines


def parse(args: Sequence[str], program: str, description: str) -> Config:
    """The config of a command line: every `--config FILE`, one over the other, then overrides.

    The last paragraph of `description` is an example.

    Leaves with tyro's message on an unknown option (with the nearest name) and on --help.

    Raises:
        InputError: what `load` raises, or an override out of range.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path, action="append", default=[])
    chosen, rest = files.parse_known_args(args)
    default = Config()
    for path in chosen.config:
        default = load(path, default)
    what, gap, example = description.rpartition("\n\n")
    config = tyro.cli(
        Config,
        args=rest,
        default=default,
        prog=program,
        description=f"{what} --config FILE reads options first, from a file or a recipe by name "
        f"(msmarco); a second --config reads another over it.{gap}{example}",
    )
    return checked(dataclasses.asdict(config), option)


def option(name: str) -> str:
    """A field's name as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def dump(config: Config) -> str:
    """The whole config as YAML, as `load` reads it."""
    values = dataclasses.asdict(config)
    return yaml.safe_dump(values | {"stages": list(config.stages)}, sort_keys=False)


def _check_names(
    cls: type, node: yaml.Node, path: Path, prefix: str, lines: dict[str, int]
) -> None:
    """Refuses names that are no field of `cls`, and notes on which line each field stands."""
    if not isinstance(node, yaml.MappingNode):
        what = prefix.rstrip(".") or "the file"
        raise InputError(
            f"{path}:{node.start_mark.line + 1}: {what} must hold fields, as in `seed: 1`"
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if prefix + name in lines:
            raise InputError(f"{path}:{line}: {prefix}{name} is given twice; delete one")
        if name not in fields:
            hint = _nearest(name, fields, prefix)
            raise InputError(f"{path}:{line}: unknown field {prefix}{name}; {hint}")
        lines[prefix + name] = line
        factory = fields[name].default_factory
        if factory is dataclasses.MISSING:
            _check_plain(value, path, prefix + name)
            continue
        _check_names(type(factory()), value, path, f"{prefix}{name}.", lines)


def _check_plain(node: yaml.Node, path: Path, name: str) -> None:
    """Refuses numbers that YAML 1.1 reads in base 60 or 8, which nobody means."""
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        is_number = item.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and re.search(r":|^[-+]?0[0-7_]", item.value):
            value = yaml.safe_load(item.value)
            raise InputError(
                f"{path}:{item.start_mark.line + 1}: {name}: YAML reads {item.value} as {value}; "
                "write a plain number"
            )


def merged(config: Config, options: Mapping[str, Any]) -> Config:
    """`options` over a config, nested as in a file: {"joint": {"steps": 300}}.

    Raises:
        InputError: an unknown option (the nearest name is given), or a value that does not fit.
    """
    values = dataclasses.asdict(config)
    _refuse_unknown(values, options, "")
    return checked(_merged(values, dict(options)), str)


def _refuse_unknown(known: Mapping[str, Any], options: Mapping[str, Any], section: str) -> None:
    for name, value in options.items():
        if name not in known:
            raise InputError(f"no option {section}{name}; {_nearest(name, known, section)}")
        if isinstance(value, Mapping) and isinstance(known[name], Mapping):
            _refuse_unknown(known[name], value, f"{section}{name}.")


def _nearest(name: str, known: Iterable[str], prefix: str) -> str:
    """What may have been meant by an unknown name."""
    near = difflib.get_close_matches(name, [*known], n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"


def _merged(default: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` over `default`, section by section: `joint.steps` outlives a `joint.batch`."""
    sections = {
        name: _merged(default[name], value)
        for name, value in values.items()
        if isinstance(value, Mapping) and isinstance(default[name], dict)
    }
    return {**default, **values, **sections}


def checked(values: dict[str, Any], place: Callable[[str], str]) -> Config:
    """A config of values that fit their fields and each other.

    Raises:
        InputError: they do not; the fields are named, by `place`.
    """
    config = validated(Config, values, place)
    check(config, place)
    return config


def validated(cls: type[Options], values: dict[str, Any], place: Callable[[str], str]) -> Options:
    """Coerces each value to its field's type (YAML reads 1e-5 as text) and checks its range.

    Raises:
        InputError: a value that does not fit; all of them are named, by `place`.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        problems = [
            f"{place('.'.join(map(str, e['loc'])))}: {e['msg']}, got {shown(e['input'])}"
            for e in error.errors()
        ]
        raise InputError("; ".join(problems)) from error
