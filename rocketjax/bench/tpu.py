"""python -m rocketjax.bench.tpu: programs compiled for TPUs and a GPU that need not be there."""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.table import Table

from rocketjax.bench.machines import MACHINES, Machine, MachineName
from rocketjax.cli.command import command, console, say
from rocketjax.config.fields import Count, PathName
from rocketjax.config.options import load

if TYPE_CHECKING:
    from rocketjax.bench.compiled import Entry
    from rocketjax.bench.programs import Lowered, Target

Name: TypeAlias = Literal[
    "queries", "passages", "pairs", "search", "warm-retriever", "warm-reranker", "joint"
]


@dataclass(frozen=True)
class Tpu:
    """Compiles the programs of a run for described TPUs: memory, bytes moved, what is in loops.

    Needs jax's TPU build (extra `tpu`), and no TPU; for an H100 that of a GPU (extra `cuda12`), and
    no GPU. Nothing is run: seconds and hours are a roofline's, an estimate of the least that it
    would take. A train step of BERT base takes minutes to compile.

    Example: python -m rocketjax.bench.tpu --machines v5e-1 --configs configs/nq.yaml --programs
    pairs
    """

    machines: tuple[MachineName, ...] = ("v5e-1", "v5e-8", "v6e-1", "v6e-8", "v4-32")
    """What to compile for; a v4-32 has 16 chips on four hosts. h100: docs/gpu.md says how."""
    configs: tuple[str, ...] = ()
    """Recipes; none: all that rocketjax brings, but for the ablation's arms and a GPU's."""
    programs: tuple[Name, ...] = (
        "queries",
        "passages",
        "pairs",
        "search",
        "warm-retriever",
        "warm-reranker",
        "joint",
    )
    """Which programs: texts through the models, exact search, the stages' train steps."""
    parallel: tuple[Literal["pmap", "shard_map"], ...] = ("pmap",)
    """How train steps are spread over the devices."""
    layers: Count = 0
    """Layers of the encoders, for a quick check; 0: as the weights have."""
    json: PathName = ""
    """Table to add to: what it holds of the same programs, jax and libtpu is not compiled again."""


def _tpu(options: Tpu) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is run: a TPU that is there stays free
    # A kernel's text has the files and lines that it comes from; without them, one program has one
    # digest wherever the package lies.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    from rocketjax.bench import compiled

    path = Path(options.json) if options.json else None
    entries = compiled.read(path) if path else []
    asked: list[Entry] = []
    for target, config, machine, program in _targets(options):
        entry = _entry(target, config, machine, program, entries)
        say(_line(entry))
        asked.append(entry)
        entries = [other for other in entries if other.key != entry.key] + [entry]
        if path:
            compiled.write(path, entries)
    console.print(_table(asked))
    console.print(_hours(options, asked))


def _targets(options: Tpu) -> "Iterator[tuple[Target, str, str, Name]]":
    """Everything that is asked for: a target, the names of config and machine, a program."""
    from rocketjax.bench.machines import describe
    from rocketjax.bench.programs import TRAINING, Target, programs_of
    from rocketjax.bench.recipes import recipes, short

    for machine in options.machines:
        devices = describe(machine)
        for name in options.configs or recipes():
            config = load(Path(name))
            own = programs_of(config, MACHINES[machine])
            if not own:
                say(f"{name}: its batches cannot be shared by {machine}'s devices")
            programs: list[Name] = [each for each in own if each in options.programs]
            for program in programs:
                both = options.parallel if program in TRAINING else options.parallel[:1]
                for parallel in both:
                    target = Target(config, MACHINES[machine], devices, parallel, options.layers)
                    yield target, short(name), machine, program


def _entry(
    target: "Target", config: str, machine: str, program: Name, known: "list[Entry]"
) -> "Entry":
    """The entry of one program, compiled unless the very same one was before."""
    from rocketjax.bench.compiled import Entry
    from rocketjax.bench.machines import compiler, compiling
    from rocketjax.bench.programs import TRAINING, lower
    from rocketjax.bench.shapes import shape_of

    entry = Entry(
        config,
        machine,
        program,
        target.parallel if program in TRAINING else "",
        shape_of(target.config, target.machine, program),
        f"jax {version('jax')}, {compiler(machine)}",
    )
    with compiling():
        lowered = lower(target, program)
    digest = hashlib.blake2b(lowered.program.as_text().encode(), digest_size=8).hexdigest()
    entry = dataclasses.replace(entry, digest=digest)
    this = target.machine.chip, digest, entry.versions
    same = [e for e in known if (MACHINES[e.machine].chip, e.digest, e.versions) == this]
    done = _taken_over(entry, same[0]) if same else _compiled(entry, lowered, target.machine)
    return _estimated(done, lowered, target.machine)


def _taken_over(entry: "Entry", other: "Entry") -> "Entry":
    """The entry with what the compiler said of the very same program."""
    names = ("memory", "moved", "kernels", "copies", "scatters", "wide_products", "collectives")
    names += ("compile_seconds", "refused")
    return dataclasses.replace(entry, **{name: getattr(other, name) for name in names})


def _compiled(entry: "Entry", lowered: "Lowered", machine: Machine) -> "Entry":
    """The entry with what the compiler says."""
    import jax

    from rocketjax.bench.hlo import Program
    from rocketjax.bench.machines import UNTIMED, compiling

    started = time.process_time()
    try:
        with compiling():
            done = lowered.program.compile(None if machine.tpu else UNTIMED)
    except jax.errors.JaxRuntimeError as error:
        return dataclasses.replace(entry, refused=str(error).partition("\n")[0][:300])
    program, memory = Program(done.as_text()), done.memory_analysis()
    took = memory.argument_size_in_bytes + memory.output_size_in_bytes
    took += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    return dataclasses.replace(
        entry,
        memory=took + memory.generated_code_size_in_bytes,
        moved=program.moved,
        kernels=0 if machine.tpu else program.kernels,
        copies=len(program.copies()),
        scatters=program.scatters(),
        wide_products=sorted(set(program.wide_products())),
        collectives=program.collectives(),
        compile_seconds=round(time.process_time() - started, 1),
    )


def _estimated(entry: "Entry", lowered: "Lowered", machine: Machine) -> "Entry":
    """The entry with what follows from the program's shapes and the machine's data sheet."""
    read = lowered.tokens * lowered.layers
    return dataclasses.replace(
        entry,
        tokens=lowered.tokens,
        flops=lowered.flops,
        per_token=entry.moved / read if read else 0.0,
        seconds=max(entry.moved / machine.bandwidth, lowered.flops / machine.peak),
    )


def _line(entry: "Entry") -> str:
    what = f"{entry.config} on {entry.machine}: {entry.program} {entry.parallel}".rstrip()
    if entry.refused:
        return f"{what}: refused: {entry.refused}"
    took = f"{entry.compile_seconds:.0f} s of processors"
    return f"{what}: {entry.memory / 1e9:.2f} GB, compiled in {took}"


def _table(entries: "list[Entry]") -> Table:
    """What every program takes."""
    table = Table(title=f"Compiled, not run: {entries[0].versions}" if entries else "")
    for name in ("config", "machine", "program"):
        table.add_column(name)
    columns = ("GB", "of", "kB a token and layer", "ms", "tokens/s")
    columns += ("kernels", "copies", "wide", "sent, MB")
    for name in columns:
        table.add_column(name, justify="right")
    for entry in entries:
        sent = sum(size for _, size in entry.collectives.values())
        speed = entry.tokens / entry.seconds if entry.seconds else 0.0
        values = (
            f"{entry.memory / 1e9:.2f}" if not entry.refused else "refused",
            f"{MACHINES[entry.machine].memory / 1e9:.0f}",
            f"{entry.per_token / 1e3:.1f}",
            f"{1e3 * entry.seconds:,.1f}",
            f"{speed:,.0f}",
            f"{entry.kernels:,}" if entry.kernels else "-",
            f"{entry.copies}",
            f"{len(entry.wide_products)}",
            f"{sent / 1e6:,.1f}",
        )
        program = f"{entry.program} {entry.parallel}".rstrip()
        table.add_row(entry.config, entry.machine, program, *values)
    return table


def _hours(options: Tpu, entries: "list[Entry]") -> Table:
    """What the runs would take at least."""
    from rocketjax.bench import compiled
    from rocketjax.bench.recipes import recipes, short

    table = Table(title="Hours at least, by the roofline: an estimate, nothing was run")
    table.add_column("config")
    table.add_column("machine")
    table.add_column("stages")
    table.add_column("all", justify="right")
    for name in options.configs or recipes():
        config = load(Path(name))
        for machine in options.machines:
            hours = compiled.hours(config, short(name), machine, entries)
            stages = ", ".join(f"{stage} {value:.2f}" for stage, value in hours.items())
            table.add_row(short(name), machine, stages, f"{sum(hours.values()):.2f}")
    return table


main = command(Tpu, _tpu, "rocketjax.bench.tpu")

if __name__ == "__main__":
    sys.exit(main())
