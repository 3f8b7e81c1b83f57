"""How a corpus is stored as vectors and searched."""

from dataclasses import dataclass
from typing import Literal

from rocketjax.config.fields import Count, Size, Whole, at


@dataclass(frozen=True)
class IndexConfig:
    """The corpus as vectors, and how they are searched."""

    kind: Literal["auto", "scann", "exact"] = at("start", "auto")
    """auto: ScaNN where it is installed, else exact search on the devices."""
    dtype: Literal["float32", "float16", "bfloat16", "int8", "binary"] = at("start", "float32")
    """Of the stored vectors. int8 (a quarter of float32) and binary (a bit a number) are searched
    exactly on the devices; what that costs in recall is measured and said (docs/speed.md)."""
    rescore: Size = at("start", 2)
    """Candidates for each passage asked for that int8 and binary vectors score again, with the
    query in float32. The index keeps it: `search` and `serve` heed it."""
    shard: Count = at("start", 0)
    """Passages in a file; a stopped encode resumes at the file it was at. 0: a 64th of the corpus,
    but at least 4,096 and at most 65,536."""
    target_recall: Whole = at("start", 0.99)
    """ScaNN searches as widely as it takes to find this share of what exact search finds."""
    leaves: Count = at("start", 0)
    """ScaNN's partitions; 0: none under 100,000 passages, then about the square root."""
    leaves_to_search: Count = at("start", 0)
    """Partitions that a query searches; 0: by `target_recall`."""
    reorder: Count = at("start", 0)
    """Passages that ScaNN scores exactly for a query; 0: by `target_recall`."""
