"""log.jsonl: every training step's metrics, one JSON object a line."""

import json
from pathlib import Path

from rocketjax.distributed import is_main
from rocketjax.files import write_text


class TrainLog:
    """Appends a stage's steps; a stage that goes on at `start` takes back what it wrote beyond.

    Where several processes run, process 0 writes.
    """

    def __init__(self, path: Path, stage: str, start: int) -> None:
        """Opens the log; lines of this stage from step `start` on are dropped, torn ones too."""
        self.path = path
        self.stage = stage
        if not is_main():
            return
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        kept = [line for line in lines if line.endswith(b"\n") and self._stays(line, start)]
        if len(kept) < len(lines):
            write_text(path, b"".join(kept).decode())

    def write(self, values: dict[str, float]) -> None:
        """Adds one step's line."""
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage} | values) + "\n")

    def _stays(self, line: bytes, start: int) -> bool:
        row = json.loads(line)
        return row["stage"] != self.stage or row["step"] < start
