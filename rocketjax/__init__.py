"""rocketjax: joint training of a dense retriever and a re-ranker, in JAX.

>>> import rocketjax
>>> model = rocketjax.load("runs/demo")
>>> model.search("mean of an array", top_k=3)
>>> model.score(["mean of an array"], ["numpy.mean(a): ..."])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rocketjax.config import ComputeConfig as ComputeConfig
    from rocketjax.config import Config as Config
    from rocketjax.errors import InputError as InputError
    from rocketjax.inference import Hit as Hit
    from rocketjax.inference import Model as Model
    from rocketjax.inference import Ranked as Ranked
    from rocketjax.inference import Reranker as Reranker
    from rocketjax.inference import Retriever as Retriever
    from rocketjax.loading import load as load
    from rocketjax.loading import open_reranker as open_reranker
    from rocketjax.loading import open_retriever as open_retriever

_HOMES = {
    "ComputeConfig": "config",
    "Config": "config",
    "Hit": "inference",
    "InputError": "errors",
    "Model": "inference",
    "Ranked": "inference",
    "Reranker": "inference",
    "Retriever": "inference",
    "load": "loading",
    "open_reranker": "loading",
    "open_retriever": "loading",
}
__all__ = [
    "ComputeConfig",
    "Config",
    "Hit",
    "InputError",
    "Model",
    "Ranked",
    "Reranker",
    "Retriever",
    "load",
    "open_reranker",
    "open_retriever",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: `import rocketjax` and --help need no jax."""
    if name == "__version__":
        from importlib.metadata import version

        return version("rocketjax")
    if name not in _HOMES:
        raise AttributeError(f"module 'rocketjax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rocketjax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What is imported on first use is there, too."""
    return sorted([*globals(), *__all__])
