"""The demo collection: find the Python object that a summary sentence describes.

The corpus is the docstrings of packages that are installed wherever rocketjax runs: numpy, scipy,
jax, flax, optax and a part of Python's standard library. Nothing is downloaded. A docstring opens
with a sentence in which its author says what the object is for. That sentence is the query; the
passage is what remains: qualified name, signature and body (formats/docstrings.py).

Why this is a fair retrieval task:

* The query is removed from its passage, every occurrence of it, so no match is a copy. So are the
  sections "See Also" and "Methods", which quote the summaries of other objects.
* Every passage is a candidate for every query, and nobody tuned the sentences to the passages: some
  queries share the object's name, many share few words with the right body.
* An object is one passage, however many names it is exported under, and equal texts are one
  passage. A sentence that several objects share is one query with several relevant passages.
* Splits keep families of names together: `numpy.mean`, `jax.numpy.mean` and `numpy.ma.mean` are in
  one split, as are families that share a sentence, so that a held-out query was never trained on.

Its qrels have gaps, as real ones do: `numpy.nanmean` also answers "Compute the arithmetic mean
along the specified axis", but only `numpy.mean` is labelled. Such passages are there on purpose:
they are the false negatives that denoising has to find.

The collection depends on the versions of Python and of the five packages, on the operating system
as far as modules such as `os` do, and on nothing else. For equal versions of the five, what they
bring is the same on every Python, but for a few signatures that not every Python can read. No
object is trusted: one that raises when it is looked at is left out, counted and named.
"""

import hashlib
import importlib
import inspect
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

from scipy.cluster.hierarchy import DisjointSet

from rocketjax.data.collection import Collection, Split
from rocketjax.data.formats.docstrings import Docstring, read_docstring
from rocketjax.data.passages import InMemory, Passage
from rocketjax.runtime.errors import InputError

_PACKAGES = """
numpy numpy.char numpy.ctypeslib numpy.dtypes numpy.exceptions numpy.fft numpy.lib.array_utils
numpy.lib.format numpy.lib.mixins numpy.lib.npyio numpy.lib.scimath numpy.lib.stride_tricks
numpy.linalg numpy.ma numpy.polynomial numpy.polynomial.chebyshev numpy.polynomial.hermite
numpy.polynomial.hermite_e numpy.polynomial.laguerre numpy.polynomial.legendre
numpy.polynomial.polynomial numpy.polynomial.polyutils numpy.random numpy.rec numpy.strings
numpy.testing
scipy.cluster.hierarchy scipy.cluster.vq scipy.constants scipy.differentiate scipy.fft scipy.fftpack
scipy.integrate scipy.interpolate scipy.io scipy.io.arff scipy.io.wavfile scipy.linalg
scipy.linalg.blas scipy.linalg.interpolative scipy.linalg.lapack scipy.ndimage scipy.optimize
scipy.signal scipy.signal.windows scipy.sparse scipy.sparse.csgraph scipy.sparse.linalg
scipy.spatial scipy.spatial.distance scipy.spatial.transform scipy.special scipy.stats
scipy.stats.contingency scipy.stats.mstats scipy.stats.qmc scipy.stats.sampling
jax jax.ad_checkpoint jax.custom_batching jax.custom_derivatives jax.debug jax.distributed
jax.dlpack jax.dtypes jax.errors jax.experimental.checkify jax.experimental.jet
jax.experimental.mesh_utils jax.experimental.multihost_utils jax.experimental.ode
jax.experimental.rnn jax.experimental.sparse jax.export jax.ffi jax.flatten_util jax.image jax.lax
jax.lax.linalg jax.nn jax.nn.initializers jax.numpy jax.numpy.fft jax.numpy.linalg jax.ops
jax.profiler jax.random jax.scipy.cluster.vq jax.scipy.fft jax.scipy.integrate jax.scipy.interpolate
jax.scipy.linalg jax.scipy.ndimage jax.scipy.optimize jax.scipy.signal jax.scipy.sparse.linalg
jax.scipy.spatial.transform jax.scipy.special jax.scipy.stats jax.scipy.stats.bernoulli
jax.scipy.stats.beta jax.scipy.stats.betabinom jax.scipy.stats.binom jax.scipy.stats.cauchy
jax.scipy.stats.chi2 jax.scipy.stats.dirichlet jax.scipy.stats.expon jax.scipy.stats.gamma
jax.scipy.stats.gennorm jax.scipy.stats.geom jax.scipy.stats.gumbel_l jax.scipy.stats.gumbel_r
jax.scipy.stats.laplace jax.scipy.stats.logistic jax.scipy.stats.multinomial
jax.scipy.stats.multivariate_normal jax.scipy.stats.nbinom jax.scipy.stats.norm
jax.scipy.stats.pareto jax.scipy.stats.poisson jax.scipy.stats.t jax.scipy.stats.truncnorm
jax.scipy.stats.uniform jax.scipy.stats.vonmises jax.scipy.stats.wrapcauchy jax.sharding jax.stages
jax.tree jax.tree_util jax.typing
flax.core flax.core.frozen_dict flax.cursor flax.errors flax.jax_utils flax.linen
flax.linen.initializers flax.linen.spmd flax.nnx flax.nnx.graph flax.nnx.spmd flax.nnx.statelib
flax.serialization flax.struct flax.training.common_utils flax.training.dynamic_scale
flax.training.early_stopping flax.training.lr_schedule flax.training.prefetch_iterator
flax.training.train_state flax.traverse_util
optax optax.assignment optax.contrib optax.losses optax.perturbations optax.projections
optax.schedules optax.second_order optax.transforms optax.tree_utils
"""

# Documented modules of every Python from 3.11 on. None has side effects on import; none is
# deprecated or optional in a build.
_STANDARD_LIBRARY = """
builtins abc argparse array ast asyncio base64 bdb binascii bisect calendar cmath cmd code codecs
codeop collections collections.abc colorsys compileall concurrent.futures configparser contextlib
contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib dis doctest email
email.charset email.header email.headerregistry email.message email.mime.text email.parser
email.policy email.utils enum filecmp fileinput fnmatch fractions ftplib functools gc getopt getpass
gettext glob graphlib gzip hashlib heapq hmac html html.parser http http.client http.cookiejar
http.cookies http.server imaplib importlib importlib.abc importlib.machinery importlib.metadata
importlib.resources importlib.util inspect io ipaddress itertools json json.decoder json.encoder
keyword linecache locale logging logging.config logging.handlers mailbox marshal math mimetypes mmap
modulefinder multiprocessing multiprocessing.connection multiprocessing.managers
multiprocessing.pool multiprocessing.shared_memory netrc numbers operator optparse os os.path
pathlib pdb pickle pickletools pkgutil platform plistlib poplib pprint profile pstats py_compile
pyclbr pydoc queue quopri random re reprlib runpy sched secrets select selectors shelve shlex shutil
signal site smtplib socket socketserver ssl stat statistics string stringprep struct subprocess
symtable sys tabnanny tarfile tempfile textwrap threading time timeit token tokenize trace traceback
tracemalloc types typing unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request
urllib.response urllib.robotparser uuid venv warnings wave weakref wsgiref.handlers wsgiref.headers
wsgiref.simple_server wsgiref.util wsgiref.validate xml.dom xml.dom.minidom xml.dom.pulldom
xml.etree.ElementTree xml.sax xml.sax.handler xml.sax.saxutils xml.sax.xmlreader xmlrpc.client
xmlrpc.server zipapp zipfile zipimport zlib zoneinfo
"""

# Test runners and notebooks replace these.
_REPLACED_AT_RUN_TIME = {
    "breakpointhook",
    "displayhook",
    "excepthook",
    "formatwarning",
    "getpass",
    "input",
    "set_trace",
    "showwarning",
    "unraisablehook",
}

_TRAIN_SHARE, _DEV_SHARE = 0.70, 0.15


class _Object(NamedTuple):
    """An object with a docstring, under one of its names."""

    name: str
    value: object
    rank: tuple[bool, int, bool, int, str]  # of an object's names, the one of the lowest is used


def load_demo() -> Collection:
    """Makes the demo collection from the installed packages, which takes a few seconds.

    Raises:
        InputError: Python runs with -OO, which drops docstrings.
    """
    if sys.flags.optimize > 1:
        raise InputError("python -OO: the demo collection is made of docstrings; run without -OO")
    docs, unreadable = _docs()
    by_query: dict[str, list[Docstring]] = defaultdict(list)
    for doc in docs:
        by_query[doc.query.casefold()].append(doc)
    families = _linked_families(by_query.values())
    queries: dict[str, dict[str, str]] = {"train": {}, "dev": {}, "test": {}}
    qrels: dict[str, dict[str, dict[str, int]]] = {"train": {}, "dev": {}, "test": {}}
    for relevant in by_query.values():
        first = relevant[0]
        split = _split_of(families[_family(first.name)])
        queries[split][f"q:{first.name}"] = first.query
        qrels[split][f"q:{first.name}"] = {doc.name: 1 for doc in relevant}
    passages = [Passage(doc.name, doc.name, f"{doc.signature} {doc.body}".strip()) for doc in docs]
    splits = {split: Split(queries[split], qrels[split]) for split in queries}
    notes = []
    if unreadable:
        first = ", ".join(sorted(unreadable)[:3])
        notes = [f"demo: {len(unreadable)} objects that cannot be read are left out ({first})"]
    return Collection("demo", InMemory(passages), splits, notes)


def _docs() -> tuple[list[Docstring], set[str]]:
    """Docstrings sorted by name, without duplicate objects and texts; names of what raised."""
    unreadable: set[str] = set()
    best: dict[int, _Object] = {}  # by id(), which is safe: the values keep the objects alive
    for item in _objects(unreadable):
        known = best.setdefault(id(item.value), item)
        if item.rank < known.rank:
            best[id(item.value)] = item
    docs: list[Docstring] = []
    for item in sorted(best.values(), key=lambda item: item.rank):
        with _guarded(unreadable, item.name):
            if doc := read_docstring(item.name, item.value):
                docs.append(doc)
    firsts: dict[tuple[str, str], Docstring] = {}
    for doc in docs:  # of equal texts, the one with the most public name is kept
        firsts.setdefault((doc.query, doc.body), doc)
    texts: dict[tuple[str, str], Docstring] = {}
    for doc in firsts.values():
        texts.setdefault((doc.signature, doc.body), doc)
    return sorted(texts.values()), unreadable


@contextmanager
def _guarded(unreadable: set[str], name: str) -> Iterator[None]:
    """Adds the name of an object that raises anything, however odd, and goes on without it.

    On Python 3.13, inspect.signature(select.epoll.register) raises AttributeError, for one.
    """
    try:
        yield
    except Exception:
        unreadable.add(name)


def _objects(unreadable: set[str]) -> list[_Object]:
    """The public objects of all modules and the methods of their classes."""
    objects: list[_Object] = []
    for module_name in (_PACKAGES + _STANDARD_LIBRARY).split():
        module = _import(module_name)
        if module is None:
            continue
        for name in sorted(set(getattr(module, "__all__", dir(module)))):
            if name.startswith("_") or name in _REPLACED_AT_RUN_TIME:
                continue
            with _guarded(unreadable, f"{module_name}.{name}"):
                objects += _public_object(module, module_name, name, unreadable)
    return objects


def _public_object(
    module: ModuleType, place: str, name: str, unreadable: set[str]
) -> list[_Object]:
    """The object of that name with its methods; empty if it is a module, deprecated or foreign.

    `place` is the name under which the module was imported: os.path calls itself posixpath.
    """
    value = _attribute(module, name)
    home = getattr(value, "__module__", None)
    if inspect.ismodule(value) or not _at_home(home, place) or _is_imported(module, home):
        return []
    objects: list[_Object] = []
    if callable(value):
        objects.append(_object(place, name, value, home != place))
    if inspect.isclass(value):
        for attribute, method, inherited in _methods(value, place, unreadable):
            objects.append(_object(place, f"{name}.{attribute}", method, home != place, inherited))
    return objects


def _object(module: str, name: str, value: object, moved: bool, inherited: bool = False) -> _Object:
    full = name if module == "builtins" else f"{module}.{name}"
    return _Object(full, value, (inherited, full.count("."), moved, len(full), full))


def _import(name: str) -> ModuleType | None:
    """Imports a module; None if the installed version of its package does not have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            return None


def _attribute(module: ModuleType, name: str) -> object:
    """A module's own attribute, whatever a notebook put there; None if deprecated or gone."""
    with warnings.catch_warnings():
        # Reading a deprecated attribute warns, which is made an error to recognise it.
        warnings.simplefilter("error", DeprecationWarning)
        warnings.simplefilter("error", FutureWarning)
        try:
            return _original(getattr(module, name), name, module.__name__)
        except (AttributeError, DeprecationWarning, FutureWarning):
            return None


def _original(value: object, name: str, module: str) -> object:
    """The module's own class, if a notebook has replaced it by a subclass (pdb.Pdb)."""
    bases = value.__mro__ if inspect.isclass(value) else ()
    own = (base for base in bases if (base.__module__, base.__name__) == (module, name))
    return next(own, value)


def _at_home(home: object, module: str) -> bool:
    """Whether an object of module `home` belongs to the package of `module`."""
    if not isinstance(home, str):  # ufuncs and some C functions have none
        return True
    package, origin = module.partition(".")[0], home.partition(".")[0]
    if package in sys.stdlib_module_names:
        return origin in sys.stdlib_module_names
    return origin == package or (package, origin) == ("jax", "jaxlib")


def _is_imported(module: ModuleType, home: object) -> bool:
    """Whether a standard library module without __all__ only imports the object."""
    if not isinstance(home, str) or hasattr(module, "__all__"):
        return False
    return home.lstrip("_") != module.__name__ and module.__name__ in sys.stdlib_module_names


def _methods(cls: type, module: str, unreadable: set[str]) -> list[tuple[str, object, bool]]:
    """Name, function and whether it is inherited. Many public classes have private bases."""
    methods: list[tuple[str, object, bool]] = []
    seen: set[str] = set()
    for base in cls.__mro__:
        if not _at_home(base.__module__, module):
            continue
        for name, value in sorted(vars(base).items(), key=lambda item: item[0]):
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            with _guarded(unreadable, f"{module}.{cls.__name__}.{name}"):
                if isinstance(value, (staticmethod, classmethod)):
                    value = value.__func__
                # Some libraries add their own methods to classes such as logging.Logger.
                home = getattr(value, "__module__", None)
                if inspect.isroutine(value) and _at_home(home, module):
                    methods.append((name, value, base is not cls))
    return methods


def _family(name: str) -> str:
    """The last part of a qualified name, in lower case."""
    return name.rpartition(".")[2].lower()


def _linked_families(groups: Iterable[list[Docstring]]) -> dict[str, str]:
    """Maps each family to a representative, the same for families that share a sentence."""
    families = DisjointSet()
    for group in groups:
        for doc in group:
            families.add(_family(doc.name))
            families.merge(_family(group[0].name), _family(doc.name))
    return {family: min(families.subset(family)) for family in families}


def _split_of(family: str) -> str:
    share = int(hashlib.sha256(family.encode()).hexdigest()[:8], 16) / 16**8
    if share < _TRAIN_SHARE:
        return "train"
    return "dev" if share < _TRAIN_SHARE + _DEV_SHARE else "test"
