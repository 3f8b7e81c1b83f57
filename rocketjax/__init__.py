"""rocketjax: joint training of a dense retriever and a re-ranker, in JAX.

>>> import rocketjax
>>> model = rocketjax.load("runs/demo")
>>> model.search("mean of an array", top_k=3)
>>> model.score(["mean of an array"], ["numpy.mean(a): ..."])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rocketjax.config.schema import ComputeConfig as ComputeConfig
    from rocketjax.config.schema import Config as Config
    from rocketjax.config.schema import TextOptions as TextOptions
    from rocketjax.functional.functions import Functions as Functions
    from rocketjax.inference.folder import open_reranker as open_reranker
    from rocketjax.inference.folder import open_retriever as open_retriever
    from rocketjax.inference.reranker import Ranked as Ranked
    from rocketjax.inference.reranker import Reranker as Reranker
    from rocketjax.inference.retriever import Retriever as Retriever
    from rocketjax.pipeline.data import Data as Data
    from rocketjax.pipeline.data import Pairs as Pairs
    from rocketjax.pipeline.fit import fit as fit
    from rocketjax.retrieval.load import load as load
    from rocketjax.retrieval.model import Hit as Hit
    from rocketjax.retrieval.model import Model as Model
    from rocketjax.runtime.errors import InputError as InputError
    from rocketjax.training.callbacks import Callback as Callback

_HOMES = {
    "Callback": "training.callbacks",
    "ComputeConfig": "config.schema",
    "Config": "config.schema",
    "Data": "pipeline.data",
    "Functions": "functional.functions",
    "Hit": "retrieval.model",
    "InputError": "runtime.errors",
    "Model": "retrieval.model",
    "Pairs": "pipeline.data",
    "Ranked": "inference.reranker",
    "Reranker": "inference.reranker",
    "Retriever": "inference.retriever",
    "fit": "pipeline.fit",
    "TextOptions": "config.schema",
    "load": "retrieval.load",
    "open_reranker": "inference.folder",
    "open_retriever": "inference.folder",
}
__all__ = [
    "Callback",
    "ComputeConfig",
    "Config",
    "Data",
    "Functions",
    "Hit",
    "InputError",
    "Model",
    "Pairs",
    "Ranked",
    "Reranker",
    "Retriever",
    "TextOptions",
    "fit",
    "load",
    "open_reranker",
    "open_retriever",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: `import rocketjax` and --help need no jax."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("rocketjax")
        except PackageNotFoundError:  # a source tree on the path, not installed
            return "unknown"
    if name not in _HOMES:
        raise AttributeError(f"module 'rocketjax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rocketjax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What is imported on first use is there, too."""
    return sorted([*globals(), *__all__])
