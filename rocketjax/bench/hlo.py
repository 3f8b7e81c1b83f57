"""What a compiled program does, read from its text: XLA's optimised HLO, for a TPU or a GPU.

A program is computations of instructions; a loop has a condition and a body, a fusion a computation
whose values stay inside the core (a GPU: the kernel). Counted are the bytes that pass between a
device and its own memory (HBM): what an instruction reads and writes, in the tiles in which arrays
lie there. What the compiler has placed in the core's own memory, S(1) in the text, is not counted;
what a GPU finds in its cache is.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

LARGE = 1e6  # bytes: copies of less do not matter
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4}
_BYTES |= {"s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "token": 0}
# f32[8,96]{1,0:T(8,128)S(1)}: type, shape, layout (the minor axis first), tiles, memory
_SHAPE = re.compile(
    rf"\b({'|'.join(sorted(_BYTES, key=len, reverse=True))})\[([\d,]*)\]"
    r"(?:\{([\d,]*)(?::([^}]*))?\})?"
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAMES = re.compile(r"%([\w.\-]+)")
# What moves nothing, or has been counted where it was started.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota"}
_FREE |= {"opt-barrier", "partition-id", "replica-id", "while", "conditional", "call"}
_PRODUCTS = ("convolution", "dot")
_LIBRARY = 'custom_call_target="__cu'  # cuBLAS's and cuDNN's: products, attention
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    kind: str  # the type and layout of its result
    op: str
    operands: tuple[str, ...]  # names, in the same computation
    inner: str  # what stands between the op's parentheses
    rest: str  # what stands behind them
    root: bool

    def called(self, how: str = "calls") -> str:
        """The computation that it names; empty: none."""
        found = re.search(rf"\b{how}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


class Loop(NamedTuple):
    """A loop, or the program outside of all loops."""

    body: str  # a computation
    times: int  # how often it runs in all, with the loops around it
    moved: float  # bytes, each time


class Program:
    """A compiled program's text."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._read(text)
        self._by_name = {
            name: {line.name: line for line in lines} for name, lines in self.computations.items()
        }
        self._moved = cache(self._bytes_of)

    def loops(self) -> list[Loop]:
        """The program outside of loops, and every loop."""
        return list(self._loops(self.entry, 1))

    @property
    def moved(self) -> float:
        """Bytes between the device and its memory, in one run of the program."""
        return sum(loop.times * loop.moved for loop in self.loops())

    @property
    def kernels(self) -> int:
        """What a GPU is asked to start in one run of the program: a kernel each, at least."""
        return sum(
            loop.times * sum(_runs(line) for line in self.computations[loop.body])
            for loop in self.loops()
        )

    def wide_products(self) -> list[str]:
        """Matrix products in loops that multiply float32 in several passes: their place in jax.

        By default a TPU rounds what it multiplies to bfloat16, whatever its type. A GPU does not:
        of cuBLAS's, all of float32 are wide (half the rate in TF32, or less).
        """
        found = []
        for computation, line in self._in_loops():
            exact = line.op in _PRODUCTS and "operand_precision={high" in line.rest
            if exact or "__cublas" in line.rest:
                kinds = [self._kind(computation, operand) for operand in line.operands]
                if any(kind.startswith("f32[") for kind in kinds):
                    found.append(_source(line))
        return found

    def copies(self) -> list[tuple[str, float]]:
        """Copies, transposes and reshapes in loops that move much: what they copy, and bytes."""
        found = []
        for loop in self.loops()[1:]:
            for line in self.computations[loop.body]:
                name = line.name if line.op == "fusion" else line.op
                # copy-start fetches ahead into the core's memory.
                if re.match(r"(input_|loop_|wrapped_)?(copy|transpose|reshape)(?!-)", name):
                    moved = self._moves(loop.body, line)
                    if moved > LARGE:
                        found.append((f"{line.kind.partition('{')[0]} {_source(line)}", moved))
        return found

    def scatters(self) -> int:
        """Scatters in loops."""
        return sum(line.op == "scatter" for _, line in self._in_loops())

    def collectives(self) -> dict[str, tuple[int, float]]:
        """How many there are in the program's text, and the bytes that they bring together."""
        found: dict[str, tuple[int, float]] = {}
        for lines in self.computations.values():
            for line in lines:
                op = line.op.removesuffix("-start")
                if op in _COLLECTIVES:
                    count, size = found.get(op, (0, 0.0))
                    found[op] = count + 1, size + sum(_sizes(line.kind, True, padded=False))
        return found

    def _read(self, text: str) -> None:
        lines: list[Instruction] | None = None
        for raw in text.splitlines():
            if lines is None:
                if head := _HEAD.match(raw):
                    lines = self.computations[head[2]] = []
                    self.entry = head[2] if head[1] else self.entry
            elif raw.startswith("}"):  # or, on a v6e, }, execution_thread="sparsecore"
                lines = None
            elif line := _instruction(raw):
                lines.append(line)

    def _loops(self, computation: str, times: int) -> Iterator[Loop]:
        yield Loop(computation, times, self._moved(computation))
        for line in self.computations[computation]:
            if line.op == "while":
                yield from self._loops(line.called("body"), times * self._trips(line))
            elif line.op == "call":
                yield from self._loops(line.called("to_apply"), times)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: scans count up to a constant, their condition's only one."""
        stated = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if stated:
            return int(stated[1])
        condition = loop.called("condition")
        inside = [condition, *(line.called() for line in self.computations[condition])]
        counts = [
            int(line.inner)
            for name in inside
            for line in self.computations.get(name, [])
            if line.op == "constant" and line.inner.isdecimal()
        ]
        return max(counts, default=1)

    def _in_loops(self) -> Iterator[tuple[str, Instruction]]:
        """Every instruction of loops' bodies, fused ones too."""
        for loop in self.loops()[1:]:
            for line in self.computations[loop.body]:
                yield loop.body, line
                yield from self._fused(line)

    def _fused(self, line: Instruction) -> Iterator[tuple[str, Instruction]]:
        for inner in self.computations.get(line.called(), []):
            yield line.called(), inner
            yield from self._fused(inner)

    def _kind(self, computation: str, name: str) -> str:
        line = self._by_name[computation].get(name)
        return line.kind if line else ""

    def _bytes_of(self, computation: str) -> float:
        return sum(self._moves(computation, line) for line in self.computations[computation])

    def _moves(self, computation: str, line: Instruction) -> float:
        """Bytes that one instruction reads and writes."""
        op = line.op
        if not _runs(line):
            return 0
        if op.endswith("-start"):  # (what is read, what is written, ...)
            sizes = [size for size in _sizes(line.kind) if size > 64] or [0]
            whole = [_size(match, False) for match in _SHAPE.finditer(line.kind)]
            least = min([size for size in whole if size > 64], default=0)
            return sum(sizes[:2]) if op == "copy-start" else least
        result = _sizes(line.kind)
        if _LIBRARY in line.rest:
            result = result[:-1]  # the last is room to work in, of which little may be used
        if op == "dynamic-update-slice":
            update = self._by_name[computation][line.operands[1]]
            return 2 * sum(_sizes(update.kind, everywhere=True))
        if op in ("dynamic-slice", "slice"):
            return sum(result) + sum(_sizes(line.kind, everywhere=True))
        body = line.called() if op == "fusion" else ""
        read = sum(
            self._read_by(computation, body, index, name)
            for index, name in enumerate(line.operands)
            if name not in line.operands[:index]
        )
        written = self._written(body) if body else [None] * len(result)
        if len(written) != len(result):
            written = [None] * len(result)
        for size, part in zip(result, written, strict=True):
            read += size if part is None else min(size, part)
        return read

    def _read_by(self, computation: str, body: str, index: int, name: str) -> float:
        """Bytes of an operand that an instruction reads; a fusion may read a slice of it."""
        full = sum(_sizes(self._kind(computation, name)))
        if not body or not full:
            return full
        for line in self.computations[body]:
            if line.op == "parameter" and line.inner == str(index):
                return self._used(body, line.name, full)
        return full

    def _used(self, body: str, name: str, full: float) -> float:
        total = 0.0
        for line in self.computations[body]:
            for index, operand in enumerate(line.operands):
                if operand == name:
                    total += self._used_by(body, line, index, full)
        return min(total, full)

    def _used_by(self, body: str, line: Instruction, index: int, full: float) -> float:
        """Bytes that one instruction of a fusion reads of its operand number `index`."""
        if line.op in ("dynamic-slice", "slice", "gather"):
            return sum(_sizes(line.kind, everywhere=True)) if index == 0 else 0
        if line.op == "dynamic-update-slice" and index == 0:
            return 0
        if line.op == "bitcast" and not line.root:
            return self._used(body, line.name, full)
        if line.op == "fusion":
            for inner in self.computations[line.called()]:
                if inner.op == "parameter" and inner.inner == str(index):
                    return self._used(line.called(), inner.name, full)
        return full

    def _written(self, body: str) -> list[float | None]:
        """Bytes of each of a fusion's results that it writes; None: all of it."""
        root = next(line for line in self.computations[body] if line.root)
        names = root.operands if root.op == "tuple" else (root.name,)
        return [self._part(body, name) for name in names]

    def _part(self, body: str, name: str) -> float | None:
        line = self._by_name[body].get(name)
        while line and line.op == "bitcast":
            line = self._by_name[body].get(line.operands[0])
        if line and line.op == "dynamic-update-slice":
            return sum(_sizes(self._kind(body, line.operands[1]), everywhere=True))
        if line and line.op == "fusion":
            parts = self._written(line.called())
            return parts[0] if len(parts) == 1 else None
        return None


def _runs(line: Instruction) -> bool:
    """Whether something is done, and here."""
    return not (line.op in _FREE or line.op.endswith("-done") or "ConcatBitcast" in line.rest)


def _instruction(raw: str) -> Instruction | None:
    """One line; None: it holds no instruction."""
    match = _LINE.match(raw)
    if not match:
        return None
    kind, rest = _split(re.sub(r"/\*index=\d+\*/", "", match[3]))
    op = re.match(r"([\w\-]+)\(", rest)
    if not op:
        return None
    end = _closing(rest, op.end() - 1)
    inner = rest[op.end() : end]
    names = tuple(_NAMES.findall(inner))
    return Instruction(match[2], kind, op[1], names, inner, rest[end + 1 :], bool(match[1]))


def _split(text: str) -> tuple[str, str]:
    """A type, which may be a tuple of types, and what follows it."""
    if text.startswith("("):
        end = _closing(text, 0) + 1
        return text[:end], text[end:].strip()
    kind, _, rest = text.partition(" ")
    return kind, rest


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _sizes(kind: str, everywhere: bool = False, padded: bool = True) -> list[float]:
    """Bytes of a type's arrays; 0 of those outside the device's memory, unless `everywhere`."""
    return [_size(match, not everywhere, padded) for match in _SHAPE.finditer(kind)]


def _size(match: re.Match[str], in_memory: bool, padded: bool = True) -> float:
    dtype, shape, layout, details = match.groups()
    if in_memory and "S(" in (details or ""):
        return 0
    sizes = [int(size) for size in shape.split(",") if size]
    order = [int(axis) for axis in (layout or "").split(",") if axis]
    if len(order) == len(sizes):
        sizes = [sizes[axis] for axis in order]
    tile = re.search(r"T\(([\d,]+)\)", details or "") if padded else None
    if tile:
        for axis, size in enumerate(map(int, reversed(tile[1].split(",")))):
            if axis < len(sizes):
                sizes[axis] = -(-sizes[axis] // size) * size
    total = _BYTES[dtype]
    for size in sizes:
        total *= size
    return total


def _source(line: Instruction) -> str:
    """The operation of jax that an instruction stems from."""
    found = re.search(r'op_name="([^"]*)"', line.rest)
    return found[1].rpartition("/body/")[2] if found else line.name
