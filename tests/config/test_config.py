"""Config files and command lines: what they accept, and what they say to what they refuse."""

import dataclasses
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from option_texts import leaves, text_of, words

from rocketjax.config.changes import changes, differences
from rocketjax.config.fields import effects
from rocketjax.config.loss import PRESETS, LossConfig, overruled, preset_line, resolve_loss
from rocketjax.config.options import dump, load, merged, parse
from rocketjax.config.schema import (
    CheckpointConfig,
    Config,
    OptimizerConfig,
    StageConfig,
    TextConfig,
    run_folder,
)
from rocketjax.runtime.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    """Writes a config file and gives its path."""

    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_holds_what_differs(file):
    config = load(file("seed: 7\njoint:\n  optimizer:\n    retriever_lr: 1e-5\n"))
    want = dataclasses.asdict(Config())
    want["seed"], want["joint"]["optimizer"]["retriever_lr"] = 7, 1e-5
    assert dataclasses.asdict(config) == want  # joint.steps is as before, though it is not 0
    assert type(config.joint.optimizer.retriever_lr) is float


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a remark\n"])
def test_an_empty_file_is_the_default(file, text):
    assert load(file(text)) == Config()


def test_what_is_dumped_loads_the_same(file):
    config = Config(
        name="größer",
        seed=3,
        text=TextConfig(query_length=16, title="segment"),
        loss=LossConfig(preset="custom", retriever_temperature=0.05),
        joint=StageConfig(steps=5, optimizer=OptimizerConfig(eps=1e-6, retriever_lr=3e-7)),
    )
    assert load(file(dump(config))) == config
    assert load(file(dump(Config()))) == Config()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_configs_that_come_along_load(path):
    load(path)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("seed: 1\nsede: 2\n", 2, "unknown field sede; did you mean seed?"),
        ("joint:\n  stepps: 2\n", 2, "unknown field joint.stepps; did you mean joint.steps?"),
        ("qqqqqq: 1\n", 1, "unknown field qqqqqq; known: name, run_dir,"),
        ("seed: 1\n\nseed: 2\n", 3, "seed is given twice"),
        ("joint: {}\njoint: {}\n", 2, "joint is given twice"),
        ("lists:\n  length: 4\n  length: 5\n", 3, "lists.length is given twice"),
        ("# remark\nseed: many\n", 2, "seed: "),
        ("seed: -1\n", 1, "seed: "),
        ("name: 5\n", 1, "name: "),
        ("data:\n\n  max_eval_queries: 1.5\n", 3, "data.max_eval_queries: "),
        ("retriever:\n  dropout: 1.0\n", 2, "retriever.dropout: "),
        ("joint:\n  optimizer:\n    clip: 0\n", 3, "joint.optimizer.clip: "),
        ("joint:\n  optimizer:\n    clip: .inf\n", 3, "joint.optimizer.clip: "),
        ("reranker:\n  dropout: .nan\n", 2, "reranker.dropout: "),
        ("loss:\n  preset: papper\n", 2, "loss.preset: .*'paper'.*'papper'"),
        ("seed: [1]\n", 1, "seed: "),
        ("seed:\n", 1, "seed: "),
        ("text:\n  query_length: 1\n", 2, "text.query_length: "),
        ("joint: 3\n", 1, "joint must hold fields"),
        ("seed: 1\njoint:\n", 2, "joint must hold fields"),
        ("joint:\n  - steps: 3\n", 2, "joint must hold fields"),
        ("- seed: 3\n", 1, "the file must hold fields"),
        ("seed\n", 1, "the file must hold fields"),
        ("loss: {mask_by_reranker: off}\n", 1, "loss.mask_by_reranker: .* not true or false"),
        ("lists:\n  max_score: no\n", 2, "lists.max_score: .* None is written null"),
        ("joint: {steps: yes}\n", 1, "joint.steps: .* not true or false"),
        ("text: {pair_length: on}\n", 1, "text.pair_length: .* not true or false"),
        ("hosts: {timeout: yes}\n", 1, "hosts.timeout: .* not true or false"),
        ("loss:\n  matryoshka: [yes]\n", 2, "loss.matryoshka.0: .* not true or false"),
        ("joint: {steps: 1:30}\n", 1, "joint.steps: YAML reads 1:30 as 90; write a plain"),
        ("seed: 010\n", 1, "seed: YAML reads 010 as 8"),
        ("text:\n  query_length: 95\n", 2, "text.query_length: at most 94"),
        ("seed: 2\nlists:\n  length: 52\n", 3, "lists.length: at most 51"),
        ("evaluate:\n  top_k: 9\n  rerank_depth: 10\n", 3, "evaluate.rerank_depth: at most 9"),
    ],
)
def test_a_refusal_names_file_line_and_field(file, text, line, said):
    path = file(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}:{line}: .*") as caught:
        load(path)
    assert re.search(said, str(caught.value)) or said in str(caught.value)


def test_every_wrong_value_is_named(file):
    path = file("seed: -1\nlists:\n  length: 0\n")
    with pytest.raises(InputError) as caught:
        load(path)
    assert f"{path}:1: seed: " in str(caught.value)
    assert f"{path}:3: lists.length: " in str(caught.value)


def test_options_at_their_limit_are_accepted(file):
    text = "text: {query_length: 94}\nlists: {length: 51}\nevaluate: {top_k: 9, rerank_depth: 9}\n"
    assert load(file(text)).text.query_length == 94


@pytest.mark.parametrize("text", ["seed: [1\n", "a: b: c\n", "\tseed: 1\n", "name: 2020-13-45\n"])
def test_what_is_not_yaml_is_refused(file, text):
    path = file(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: not YAML[^\n]*\\Z"):
        load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml: cannot read"):
        load(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: größer\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: cannot read"):
        load(tmp_path / "latin.yaml")


def test_no_code_of_a_file_runs(file):
    with pytest.raises(InputError, match="not YAML"):
        load(file("name: !!python/object/apply:os.getcwd []\n"))


def test_the_command_line_overrides_the_file_and_the_file_the_default(file):
    path = str(file("seed: 7\nname: fromfile\njoint:\n  steps: 11\n"))
    assert parse([], "rocket", "Trains.") == Config()
    assert parse(["--seed", "5"], "rocket", "Trains.") == Config(seed=5)
    for args in (["--config", path, "--seed", "5"], ["--seed", "5", f"--config={path}"]):
        config = parse([*args, "--joint.optimizer.retriever-lr", "1e-6"], "rocket", "Trains.")
        assert (config.seed, config.name, config.joint.steps) == (5, "fromfile", 11)
        assert config.joint.optimizer.retriever_lr == 1e-6
        assert config.reranker_warmup == Config().reranker_warmup


def test_a_later_file_goes_over_an_earlier_one(file, tmp_path):
    first = file("seed: 7\njoint: {steps: 11, batch: 4}\n")
    second = tmp_path / "second.yaml"
    second.write_text("joint: {steps: 12}\n")
    config = parse(["--config", str(first), "--config", str(second)], "rocket", "Trains.")
    assert (config.seed, config.joint.steps, config.joint.batch) == (7, 12, 4)
    second.write_text("joint: {stepps: 12}\n")
    with pytest.raises(InputError, match=r"second\.yaml:1: unknown field joint\.stepps"):
        parse(["--config", str(first), "--config", str(second)], "rocket", "Trains.")


def test_an_unknown_option_leaves_with_status_2_and_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--joint.stepps", "3"], "rocket", "Trains.")
    assert caught.value.code == 2
    assert "--joint.steps" in capsys.readouterr().err


def test_help_shows_every_option_and_what_it_means(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], "rocket", "Trains it all.\n\nExample: rocket")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    said = words(shown)
    assert words("Trains it all. --config FILE") in said
    for cls, name, option in leaves(Config):
        spelled = "from" if option == "from_stage" else option.replace("_", "-")
        assert re.search(rf"--{spelled}\b", shown), option
        assert text_of(cls, name), f"{option} has no docstring"
        assert words(text_of(cls, name)) in said, option


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--seed", "-1"], "--seed: "),
        (["--joint.optimizer.b2", "1.0"], "--joint.optimizer.b2: "),
        (["--joint.optimizer.retriever-lr", "nan"], "--joint.optimizer.retriever-lr: "),
        (["--lists.top-n", "3"], "--lists.length: at most 4"),
        (["--lists.low", "0.95", "--lists.pseudo-positives", "1"], "--lists.low: at most 0.9"),
        (
            ["--lists.denoised", "0", "--lists.pseudo-positives", "1"],
            "--lists.pseudo-positives: pseudo-positives stand in denoised lists",
        ),
    ],
)
def test_an_override_out_of_range_is_named(args, said):
    with pytest.raises(InputError, match=f"^{said}"):
        parse(args, "rocket", "Trains.")


def test_what_a_preset_overrules_is_named():
    assert overruled(LossConfig()) == overruled(LossConfig(preset="paper")) == []
    assert overruled(LossConfig(preset="custom", distill_weight=1.0)) == []
    assert overruled(LossConfig(distill_weight=1.0, retriever_temperature=0.1)) == [
        "loss.distill_weight 1.0 (0.3 counts)"
    ]
    given = LossConfig(preset="released", distill_weight=1.0, reduction="sum")  # as it is, and not
    assert overruled(given) == ["loss.reduction sum (element counts)"]


def test_what_a_preset_sets_is_said():
    """An option set to its own default looks as if it were left out."""
    given = LossConfig(preset="distilled", retriever_weight=1.0, distill_weight=2.0)
    assert preset_line(given) == (
        "loss.preset distilled: retriever_weight 0.1; distill_weight 1.0; teacher_temperature 0.3; "
        "it overrules loss.distill_weight 2.0 (1.0 counts); custom would not"
    )
    unread = "joint training does not read loss.retriever_negatives: no retriever_weight"
    assert preset_line(LossConfig(preset="paper", retriever_negatives="batch")).endswith(unread)
    assert not preset_line(LossConfig()) and not preset_line(LossConfig(preset="custom"))


def test_a_folder_of_a_recipes_name_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msmarco").mkdir()
    assert load("msmarco").name == "msmarco"


def test_an_override_of_the_wrong_type_leaves_with_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--seed", "many"], "rocket", "Trains.")
    assert caught.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_configs_are_frozen():
    for section in (Config(), *vars(Config()).values()):
        if dataclasses.is_dataclass(section):
            name = dataclasses.fields(section)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(section, name, "other")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_decides_all_but_the_temperature_and_negatives_of_the_retriever(preset):
    kept = {"retriever_temperature": 0.05, "retriever_negatives": "batch"}
    given = LossConfig(preset=preset, distill_weight=9.0, **kept)
    assert dataclasses.asdict(resolve_loss(given)) == dataclasses.asdict(PRESETS[preset]) | kept


def test_custom_losses_stay_as_they_are():
    given = LossConfig(preset="custom", distill_weight=9.0, reduction="sum")
    assert resolve_loss(given) == given


def test_the_paper_and_the_released_code_differ_where_they_should():
    paper, released = (resolve_loss(LossConfig(preset=name)) for name in ("paper", "released"))
    assert (paper.direction, paper.stop_gradient, paper.reduction) == (
        "student_teacher",
        "none",
        "sum",
    )
    assert (released.direction, released.stop_gradient, released.reduction) == (
        "teacher_student",
        "reranker",
        "element",
    )
    assert paper.retriever_weight == released.retriever_weight == 0


def test_the_folder_of_a_run():
    assert run_folder(Config(name="x")) == Path("runs/x")
    assert run_folder(Config(name="x", run_dir="/tmp/y")) == Path("/tmp/y")


def test_a_change_is_of_the_first_stage_that_heeds_it():
    """Judging the start neither trains nor drops anything."""
    heeded = {
        "retriever.dropout": ("0.1", "warm-retriever"),
        "reranker.dropout": ("0.1", "warm-reranker"),
        "checkpoint.take": ("best", "warm-retriever"),
        "reranker.weights": ("x", "start"),
        "lists.positives": ("1", "warm-reranker"),
        "lists.pseudo_positives": ("1", "warm-retriever"),
        "evaluate.every_queries": ("9", "joint"),
        "joint.steps": ("5", "mine"),
    }
    given = [word for name, (value, _) in heeded.items() for word in (f"--{name}", value)]
    found = changes(Config(), parse([*given, "--checkpoint.every", "9"], "program", "what it does"))
    assert found == {name: stage for name, (_, stage) in heeded.items()}


def test_every_option_says_which_stage_it_first_matters_to():
    assert effects(Config).keys() == {option for _, _, option in leaves(Config)}

    @dataclasses.dataclass(frozen=True)
    class Careless:
        knob: int = 1

    with pytest.raises(TypeError, match=r"option data\.knob does not say which stage"):
        effects(Careless, "data.")


def test_a_preset_counts_by_what_it_stands_for():
    """It overrules the re-ranker's own loss, which its warm-up heeds."""
    pointwise = LossConfig(preset="custom", reranker_loss="pointwise")
    old, new = (
        Config(loss=dataclasses.replace(pointwise, preset=preset))
        for preset in ("default", "custom")
    )
    assert changes(old, new) == {"loss.reranker_loss": "warm-reranker"}


def test_how_often_is_saved_decides_what_may_be_the_best():
    rare, often = CheckpointConfig(every=20), CheckpointConfig(every=9)
    assert not differences(Config(checkpoint=rare), Config(checkpoint=often))
    rare, often = (dataclasses.replace(one, take="best") for one in (rare, often))
    found = differences(Config(checkpoint=rare), Config(checkpoint=often))
    assert found == ["checkpoint.every: 20 -> 9"]


def test_the_config_imports_no_jax():
    code = "import sys, rocketjax.config.options; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss: {mask_by_retriever: 0.1}", r"loss\.mask_by_retriever: it masks negatives from the"),
        (
            "{loss: {preset: paper, retriever_negatives: batch, mask_by_retriever: 0.1}, "
            "retriever_warmup: {steps: 0}}",
            r"loss\.mask_by_retriever: .* loss\.retriever_weight above 0",
        ),
        (
            "loss: {preset: custom, distill_weight: 0, teacher: both}",
            r"loss\.teacher: .* no weight; set loss\.distill_weight",
        ),
        (
            "{lists: {easy: 0.5}, reranker_warmup: {steps: 0}}",
            r"lists\.easy: easy lists are",
        ),
        ("lists: {easy: 0.5, length: 1}", r"lists\.easy: lists of one passage have no negatives"),
        ("loss: {stored_temperature: 0.1}", r"loss\.stored_temperature: it divides stored scores"),
        ("lists: {simans_a: 1}", r"lists\.simans_a: .* lists\.sampling is uniform"),
        (
            "loss: {preset: released, mask_by_reranker: 0}",
            r"loss\.mask_by_reranker: .* no weight \(loss\.preset released\)",
        ),
        (
            "{loss: {preset: custom, distill_weight: 0}, lists: {unlabelled: distill}}",
            r"lists\.unlabelled: .* set loss\.distill_weight",
        ),
        (
            "lists: {source: given, unlabelled: distill}",
            r"lists\.unlabelled: given lists are not mined",
        ),
        ("index: {kind: exact, leaves: 9}", r"index\.leaves: only ScaNN reads it"),
        ("index: {dtype: int8, target_recall: 0.9}", r"index\.target_recall: only ScaNN reads it"),
        ("index: {rescore: 9}", r"index\.rescore: only int8 and binary vectors are scored again"),
        (
            "loss: {preset: custom, distill_loss: margin_mse, direction: student_teacher}",
            r"loss\.direction: it is of loss\.distill_loss kl alone",
        ),
        ("loss: {teacher: stored}", r"loss\.teacher: stored needs scores of mined passages"),
        ("{loss: {teacher: both}, lists: {refresh: 9}}", r"loss\.teacher: both needs scores of m"),
    ],
)
def test_what_would_change_nothing_is_refused(tmp_path, text, said):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load(path)


def test_masks_count_with_every_preset(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "loss: {preset: distilled, mask_by_reranker: -1, mask_by_retriever: 0.1}\n"
        "retriever_warmup: {steps: 1}"
    )
    loss = resolve_loss(load(path).loss)
    assert (loss.mask_by_reranker, loss.mask_by_retriever) == (-1.0, 0.1)
    assert (loss.retriever_weight, loss.distill_weight, loss.teacher_temperature) == (0.1, 1, 0.3)


def test_widths_and_their_weights_go_together(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("loss: {matryoshka: [8, 4], matryoshka_weights: [1, 0.5]}")
    config = load(path)
    assert config.loss.matryoshka == (8, 4)
    path.write_text(dump(config))
    assert load(path) == config and resolve_loss(config.loss).matryoshka_weights == (1, 0.5)
    for text, said in (
        ("matryoshka: [8, 8]", "holds a width twice"),
        ("matryoshka: [8, 4], matryoshka_weights: [1]", "1 weights for 2 widths"),
        ("matryoshka: [8, 4], matryoshka_weights: [0, 0]", "not all of them 0"),
        ("matryoshka: [0]", "greater than or equal to 1"),
    ):
        path.write_text(f"loss: {{{text}}}")
        with pytest.raises(InputError, match=said):
            load(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, and an empty folder to work in."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_run_is_in_the_home_that_its_tilde_names(home):
    (home / "mine.yaml").write_text("run_dir: ~/runs/yaml\n")
    assert run_folder(load("~/mine.yaml")) == home / "runs" / "yaml"
    assert run_folder(parse(["--run-dir=~/runs/x"], "train", "")) == home / "runs" / "x"
    assert run_folder(merged(Config(), {"run_dir": "~/runs/py"})) == home / "runs" / "py"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("search", "--model /no/such --queries=~/q.tsv --output=~/made/run.trec"),
        (
            "rerank",
            "--model /no/such --collection x --queries=~/q --run=~/no.trec --output=~/made/r.trec",
        ),
        ("evaluate", "--collection /no/such --runs=~/no.trec --per-query=~/made/values"),
    ],
)
def test_a_command_writes_into_the_home_that_its_tilde_names(home, command, arguments, capsys):
    """As a shell leaves it in --output=~/x; what is read is missing, what is written is made."""
    assert import_module(f"rocketjax.{command}").main(arguments.split()) == 2
    assert (home / "made").is_dir() and not any(Path.cwd().iterdir())
    assert "~" not in capsys.readouterr().err
