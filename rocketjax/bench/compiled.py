"""What compiled programs take: the entries of docs/tpu.json, which `bench.tpu` writes."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketjax.bench.machines import MACHINES
from rocketjax.bench.recipes import sizes_of
from rocketjax.bench.shapes import means
from rocketjax.bench.stages import Kind, stages
from rocketjax.config.schema import Config
from rocketjax.retrieval.exact import QUERIES
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json, write_json

TABLE = Path(__file__).with_name("tpu.json")  # docs/tpu.json, in the package too


@dataclass(frozen=True)
class Entry:
    """A program of a recipe, compiled for a machine."""

    config: str
    machine: str
    program: str
    parallel: str  # of a train step; empty for others
    shape: str  # of what it is given
    versions: str
    digest: str = ""  # of the program that was given to the compiler
    memory: float = 0.0  # bytes of a device: arguments, results, temporaries and code
    tokens: float = 0.0  # real ones that a device reads in one run
    moved: float = 0.0  # bytes between a device and its memory in one run
    per_token: float = 0.0  # bytes of them a real token and layer; 0: no tokens
    flops: float = 0.0  # of matrix products in one run, of a device
    seconds: float = 0.0  # of one run, by the roofline
    kernels: int = 0  # that a GPU starts in one run
    copies: int = 0  # above 1 MB, in loops
    scatters: int = 0  # in loops
    wide_products: list[str] = dataclasses.field(
        default_factory=list
    )  # in loops, float32 in several passes
    collectives: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0  # of processors, whatever else they had to do
    refused: str = ""  # what the compiler said, if it did not compile

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Of entries with one key, a table has one."""
        return self.config, self.machine, self.program, self.parallel

    @property
    def fits(self) -> bool:
        """Whether it was compiled, and a device's memory is enough."""
        return not self.refused and self.memory <= MACHINES[self.machine].memory


def read(path: Path) -> list[Entry]:
    """The entries of a table; none where there is no file.

    Raises:
        InputError: the file is no such table.
    """
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = read_json(path.resolve())["entries"]
        return [Entry(**row) for row in rows]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a table of python -m rocketjax.bench.tpu") from error


def write(path: Path, entries: list[Entry]) -> None:
    """Writes a table, in a fixed order."""
    rows = [dataclasses.asdict(entry) for entry in sorted(entries, key=lambda entry: entry.key)]
    write_json(path, {"entries": rows})


def find(
    entries: list[Entry], config: str, machine: str, program: str, shape: str = ""
) -> Entry | None:
    """The entry of a program; `shape`: None unless it was compiled for this very shape."""
    for entry in entries:
        same = (entry.config, entry.machine, entry.program) == (config, machine, program)
        if same and shape in ("", entry.shape):
            return entry
    return None


def hours(config: Config, name: str, machine: str, entries: list[Entry]) -> dict[str, float]:
    """Hours of each stage if every program ran as fast as its roofline: at least what it will take.

    Of searches, only products and bytes are counted, not the selection of the best. A corpus that
    does not fit the devices is sent to them again for every few thousand queries; that, and all
    that hosts do, is not counted.

    Args:
        config: of the run.
        name: of the config, in `entries`.
        machine: that it runs on.
        entries: of a table.

    Returns:
        By stage; no stage that needs a program which is not in the table.
    """
    found = {e.program: e for e in entries if (e.config, e.machine) == (name, machine)}
    sizes, devices = sizes_of(config), MACHINES[machine].count
    seconds = {name: entry.seconds for name, entry in found.items()}

    def each(program: str, kind: Kind) -> float:
        """Seconds a text, all devices at work."""
        entry = found[program]
        return entry.seconds * means(config)[kind] / (entry.tokens * devices)

    estimated: dict[str, float] = {}
    for work in stages(config, sizes.passages, sizes.queries):
        try:
            total = work.steps * seconds[work.name] if work.steps else 0.0
            total += work.passages * each("passages", "passage") if work.passages else 0.0
            total += work.pairs * each("pairs", "pair") if work.pairs else 0.0
            total += work.searches * seconds["search"] / QUERIES if work.searches else 0.0
        except KeyError:
            continue
        estimated[work.name] = estimated.get(work.name, 0.0) + total / 3_600
    return estimated
