"""A run in this process, from Python or a notebook's cell: train, watch, search, export."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rocketjax.cli.command import console, say, watch
from rocketjax.config.checks import mined_only
from rocketjax.config.options import load as load_config
from rocketjax.config.options import merged
from rocketjax.config.schema import Config, run_folder, run_name
from rocketjax.evaluation.results import HEADS, SHOWN, Report
from rocketjax.pipeline.data import Data, Pairs, write_beside
from rocketjax.pipeline.publish import check_repository, export_run, push_export
from rocketjax.pipeline.run import run
from rocketjax.report import page
from rocketjax.report.card import Owner
from rocketjax.report.notebook import LivePictures, show
from rocketjax.retrieval.load import load
from rocketjax.retrieval.model import Hits, Model
from rocketjax.runtime import signals
from rocketjax.runtime.cloud import is_address
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import remove
from rocketjax.runtime.signals import Preempted
from rocketjax.runtime.tables import html_table
from rocketjax.training.callbacks import Callback


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's folder, and what it holds.

    Attributes:
        folder: of the run.
        results: both models' measures; None where `stages` left out the evaluation.
    """

    folder: Path
    results: Report | None

    @cached_property
    def model(self) -> Model:
        """Both models and the index, opened at first use."""
        return load(self.folder)

    def search(self, query: str, top_k: int = 10, depth: int = 50) -> Hits:
        """The `top_k` best passages; see `Model.search`."""
        return self.model.search(query, top_k, depth)

    def report(self) -> "Page":
        """Writes report.html; a notebook shows its tables and figures in the cell."""
        return Page(page.write(self.folder))

    def export(self, output: str | Path, license: str = "", languages: Sequence[str] = ()) -> Path:
        """Writes both models as sentence-transformers loads them, with model cards.

        Args:
            output: a folder that does not exist yet.
            license: that the cards name, as hubs spell it (apache-2.0).
            languages: of the texts that the cards name, as codes (en).

        Raises:
            InputError: the folder exists, or a language is no code.
        """
        folder = Path(output).expanduser()
        export_run(self.folder, folder, Owner(license, languages), say)
        return folder

    def push(
        self, name: str, public: bool = False, license: str = "", languages: Sequence[str] = ()
    ) -> None:
        """Uploads both models to the Hugging Face hub as `name`-retriever and `name`-reranker.

        They are exported first, as they are now; with cards of your own writing, `export` them and
        upload those folders: `hf upload`.

        Raises:
            InputError: `name` is not ORG/NAME, or the upload failed.
        """
        check_repository(name)
        output = self.folder / ".upload"  # hidden: no part of the run, as at an address
        remove(output)  # of a push that failed: the models or the cards may be others by now
        export_run(self.folder, output, Owner(license, languages), say)
        push_export(output, name, public, say)
        remove(output)

    def _repr_html_(self) -> str:
        rows = [r.cells() for r in self.results.rows if r.measure in SHOWN] if self.results else []
        return html_table(HEADS, rows, str(self.folder))


@dataclass(frozen=True)
class Page:
    """A run's report in a file; notebooks show its tables and figures.

    Attributes:
        path: report.html, in the run's folder.
    """

    path: Path

    def _ipython_display_(self) -> None:
        show(self.path.parent)


def fit(
    collection: str | Path | Data | Pairs | None = None,
    config: Config | str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trained:
    """Trains a retriever and a re-ranker jointly, in this process; the same call again resumes.

    In a notebook the curves grow in the cell while it runs, and its stop button saves the state.

    Examples:
        >>> run = rocketjax.fit("demo", joint={"steps": 300}, run_dir="runs/mine")
        >>> run.search("mean of an array")

    Args:
        collection: by name or folder, as --data.collection takes it, or texts of your own
            (`rocketjax.Data`, `rocketjax.Pairs`), which are written beside the run's folder, in one
            named by their content; None: what `config` names (the demo).
        config: the options, or a config file or recipe ("msmarco") to read them from; None: the
            defaults.
        callbacks: told of every stage, step and judgement.
        options: over `config`, nested as in a config file: text={"passage_length": 128}.

    Raises:
        InputError: an unknown option or a bad value, bad data, or a run with other options in the
            same folder.
        NonFiniteError: training diverged.
        KeyboardInterrupt: stopped by hand; what was trained is saved.
    """
    _check_arguments(collection, config, callbacks)
    if isinstance(config, str | Path):
        config = load_config(Path(config))
    config = config or Config()
    if isinstance(collection, Pairs) and collection.negatives is not None:
        config = _as_given(config)
    config = merged(config, options)
    config = _trained_on(collection, config)
    shown = [LivePictures(run_folder(config))] if console.is_jupyter else []
    try:
        with signals.heeded():
            results = run(config, say, watch, [*shown, *callbacks])
    except Preempted:
        raise KeyboardInterrupt("stopped and saved; the same call resumes") from None
    for pictures in shown:
        pictures.draw()
    return Trained(run_folder(config), results)


def _trained_on(collection: str | Path | Data | Pairs | None, config: Config) -> Config:
    """The config with its collection; texts of one's own are written beside the run's folder."""
    if collection is None:
        return config
    if isinstance(collection, str | Path):
        return merged(config, {"data": {"collection": str(collection)}})
    if is_address(run_name(config)):
        raise InputError(
            f"run_dir {config.run_dir}: another machine would not find these texts; write them "
            "(.write(folder)), copy the folder to an address, and give that as the collection"
        )
    place = write_beside(run_folder(config), collection.files(config.data.on_bad_rows))
    options: dict[str, dict[str, Any]] = {"data": {"collection": str(place)}}
    judged = isinstance(collection, Data) and collection.held_out
    if not judged and not config.data.hold_out:
        options["data"] |= {"hold_out": 0.1}
    return merged(config, options)


def _as_given(config: Config) -> Config:
    """The config for lists of the pairs' own negatives, without what it says of mining.

    Recipes say something of it. The options that `fit` is given beside them are refused.
    """
    unused = mined_only(config.lists)
    if unused:
        names = ", ".join(f"lists.{name}" for name in unused)
        say(f"the pairs bring their negatives, and none are mined: {names} of config: not used")
    return merged(config, {"lists": {"source": "given", **unused}})


def _check_arguments(collection: Any, config: Any, callbacks: Any) -> None:
    """Raises InputError for what is of another type than `fit` takes, before anything is done."""
    if not isinstance(collection, str | Path | Data | Pairs | None):
        raise InputError(
            f"the collection is a {type(collection).__name__}; give a name, a folder, "
            "rocketjax.Pairs(queries, positives) or rocketjax.Data(passages, queries, qrels)"
        )
    if not isinstance(config, str | Path | Config | None):
        raise InputError(
            f"config is a {type(config).__name__}; give a file, a recipe's name or a "
            'rocketjax.Config, and single options by name: joint={"steps": 300}'
        )
    if not isinstance(callbacks, Sequence) or not all(isinstance(c, Callback) for c in callbacks):
        raise InputError("callbacks: expected a list of rocketjax.Callback objects")
