"""Collections by name."""

from pathlib import Path

from rocketjax.data.collection import Collection
from rocketjax.data.demo import load_demo
from rocketjax.data.formats import read_beir
from rocketjax.data.msmarco import corpus_file, read_msmarco
from rocketjax.errors import InputError


def load_collection(name: str) -> Collection:
    """ "demo", a BEIR folder, or one of MS MARCO's or DPR's files; see data/msmarco.py.

    Raises InputError where it is none of these.
    """
    if name == "demo":
        return load_demo()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"data.collection: {name!r} is no folder; give a BEIR folder, one with collection.tsv "
            'or psgs_w100.tsv, or "demo"'
        )
    return read_msmarco(folder) if corpus_file(folder) else read_beir(folder)
