"""Options from files and the command line: read, merged, checked, written and compared."""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tyro
import yaml

from rocketjax.config.index import as_read, check_index
from rocketjax.config.loss import LossConfig, resolve_loss
from rocketjax.config.schema import Config, Depths, ListConfig, TextOptions
from rocketjax.runtime.errors import InputError, shown

Options = TypeVar("Options")
RECIPES = Path(__file__).parents[1] / "recipes"  # configs/, by a link
_MOST = 2**20  # characters of a config file
# Of texts, what only one of both models reads.
OF_RETRIEVER = ("passage_length", "title", "query_prompt", "passage_prompt")
OF_RERANKER = ("pair_length", "pair_truncation")
# Options that given lists depend on.
_OF_GIVEN = ("source", "length", "positives", "easy", "after", "teacher")


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
    return merged, lambda name: f"{path}:{lines.get(name, 1)}: {name}"


def find_recipe(path: Path) -> Path:
    """The config file itself, or the recipe of that name which comes with the package ("msmarco").

    Raises:
        InputError: there is neither; the recipes are named.
    """
    path = path.expanduser()
    shipped = RECIPES / f"{path}.yaml"
    if path.exists() or path.suffix:
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
            continue
        _check_names(type(factory()), value, path, f"{prefix}{name}.", lines)


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
    longest = (config.text.pair_length or 10**9) - 2
    _check_limits(place, ("text.query_length", config.text.query_length, longest))
    check_depths(config.evaluate, place)
    check_lists(config.lists, place)
    check_index(config.index, place)
    _check_widths(config.loss, place)
    _check_used(config, place)
    _check_teacher(config, place)
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


def check_depths(depths: Depths, place: Callable[[str], str]) -> None:
    """Refuses to re-rank more than is retrieved. Raises InputError, as `check_lists` does."""
    _check_limits(place, ("evaluate.rerank_depth", depths.rerank_depth, depths.top_k))


def check_lists(lists: ListConfig, place: Callable[[str], str]) -> None:
    """Refuses options for lists that contradict each other; `place` says where one was given.

    Raises:
        InputError: the option and what is expected of it.
    """
    if lists.easy and lists.length == 1:
        raise InputError(
            f"{place('lists.easy')}: lists of one passage have no negatives; set lists.length to 2 "
            "or more, or leave it out"
        )
    if lists.source == "given":
        _check_given(lists, place)
        return  # nothing else of them is read
    _check_limits(
        place,
        ("lists.length", lists.length, lists.top_n + 1),
        ("lists.scored", lists.scored, lists.top_n),
        ("lists.range_min", lists.range_min, lists.top_n - lists.length + 1),
        (
            "lists.min_score",
            lists.min_score or 0,
            1 if lists.max_score is None else lists.max_score,
        ),
        # Else a pseudo-positive would be a negative too.
        ("lists.low", lists.low, lists.high if lists.pseudo_positives else 1),
    )
    if lists.pseudo_positives and not lists.denoised:
        raise InputError(
            f"{place('lists.pseudo_positives')}: pseudo-positives stand in denoised lists; set "
            "lists.denoised above 0"
        )
    _check_simans(lists, place)


def mined_only(lists: ListConfig) -> dict[str, Any]:
    """What of the options only mining reads and is not as it is by default: name -> default."""
    default = dataclasses.asdict(ListConfig())
    return {
        name: default[name]
        for name, value in dataclasses.asdict(lists).items()
        if name not in _OF_GIVEN and value != default[name]
    }


def _check_given(lists: ListConfig, place: Callable[[str], str]) -> None:
    """Refuses, with given lists, what only mining reads."""
    for name, default in mined_only(lists).items():
        raise InputError(
            f"{place(f'lists.{name}')}: given lists are not mined, and nothing reads it; leave it "
            f"out (where a recipe sets it: {shown(default)}), or take lists.source mined"
        )


def _check_simans(lists: ListConfig, place: Callable[[str], str]) -> None:
    """Refuses a and b of a sampling that is another."""
    unused = [n for n in ("simans_a", "simans_b") if getattr(lists, n) != getattr(ListConfig(), n)]
    if unused and lists.sampling != "simans":
        raise InputError(
            f"{place(f'lists.{unused[0]}')}: it is of lists.sampling simans alone, and "
            f"lists.sampling is {lists.sampling}; leave it out, or take simans"
        )


def check_text(text: TextOptions, unread: Sequence[str], place: Callable[[str], str]) -> None:
    """Refuses options of texts for a model that is not opened. Raises InputError."""
    for name in unread:
        if getattr(text, name) != getattr(TextOptions(), name):
            other = "retriever" if name in OF_RETRIEVER else "re-ranker"
            raise InputError(
                f"{place(f'text.{name}')}: only a {other} reads it, and none is opened; "
                "leave it out"
            )


def _check_widths(loss: LossConfig, place: Callable[[str], str]) -> None:
    """Refuses widths that are given twice, and weights that are not one a width."""
    widths, weights = loss.matryoshka, loss.matryoshka_weights
    if len(set(widths)) < len(widths):
        raise InputError(f"{place('loss.matryoshka')}: {[*widths]} holds a width twice; delete one")
    if weights and (len(weights) != len(widths) or not any(weights)):
        raise InputError(
            f"{place('loss.matryoshka_weights')}: {len(weights)} weights for {len(widths)} widths; "
            "give one for each, not all of them 0"
        )


def _check_used(config: Config, place: Callable[[str], str]) -> None:
    """Refuses masks and lists that would change nothing."""
    loss = resolve_loss(config.loss)
    in_batch = loss.retriever_negatives == "batch" and loss.retriever_weight
    if loss.mask_by_retriever is not None and not (in_batch or config.retriever_warmup.steps):
        raise InputError(
            f"{place('loss.mask_by_retriever')}: it masks negatives from the batch, and there are "
            "none; set loss.retriever_negatives batch with a loss.retriever_weight above 0, or "
            "retriever_warmup.steps, or leave it out"
        )
    if loss.mask_by_reranker is not None and not loss.retriever_weight:
        raise InputError(
            f"{place('loss.mask_by_reranker')}: the retriever's own cross-entropy has no weight "
            f"(loss.preset {loss.preset}); leave it out"
        )
    if config.lists.easy and not config.reranker_warmup.steps:
        raise InputError(
            f"{place('lists.easy')}: easy lists are of the re-ranker's warm-up, which has no step; "
            "set reranker_warmup.steps, or leave it out"
        )
    if config.lists.unlabelled == "distill" and not loss.distill_weight:
        raise InputError(
            f"{place('lists.unlabelled')}: lists without a label teach by distillation alone, "
            "which has no weight; set loss.distill_weight, or lists.unlabelled pseudo"
        )


def _check_teacher(config: Config, place: Callable[[str], str]) -> None:
    """Refuses stored scores that teach nobody or miss lists, and a temperature of none."""
    loss, lists = resolve_loss(config.loss), config.lists
    if loss.teacher != "live" and not loss.distill_weight:
        raise InputError(
            f"{place('loss.teacher')}: stored scores teach by distillation, which has no weight; "
            "set loss.distill_weight, or loss.teacher live"
        )
    if loss.teacher == "live" and loss.stored_temperature is not None:
        raise InputError(
            f"{place('loss.stored_temperature')}: it divides stored scores, and loss.teacher live "
            "reads none; set loss.teacher stored or both, or leave it out"
        )
    is_stored = loss.teacher != "live" and config.joint.steps
    if is_stored and lists.source == "mined" and not lists.teacher:
        raise InputError(
            f"{place('loss.teacher')}: {loss.teacher} needs scores of mined passages, and rows "
            "bring those of their own; give lists.teacher, a cross-encoder or a run, or "
            "lists.source given, or take loss.teacher live"
        )
    if loss.teacher == "stored" and loss.stop_gradient == "retriever":
        raise InputError(
            f"{place('loss.teacher')}: stored scores can only teach the retriever, which "
            "loss.stop_gradient retriever does not move; take loss.stop_gradient reranker"
        )


def _check_limits(place: Callable[[str], str], *limits: tuple[str, float, float]) -> None:
    for name, value, limit in limits:
        if value > limit:
            raise InputError(f"{place(name)}: at most {limit} with the other options, got {value}")
