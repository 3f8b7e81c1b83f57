"""Collections by name."""

from pathlib import Path

from rocketjax.data.collection import Collection
from rocketjax.data.demo import load_demo
from rocketjax.data.formats import read_beir
from rocketjax.errors import InputError


def load_collection(name: str) -> Collection:
    """ "demo", or a BEIR folder. Raises InputError where it is neither."""
    if name == "demo":
        return load_demo()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f'data.collection: {name!r} is no folder; give a BEIR folder or "demo"')
    return read_beir(folder)
