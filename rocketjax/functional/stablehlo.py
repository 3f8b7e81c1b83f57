"""Trained models as compiled functions that need no rocketjax: jax.export's StableHLO.

Each function is a file for CPUs, CUDA GPUs and TPUs, of any number of texts of any length up to the
model's. docs/functions.md shows how to call one with jax, numpy and flatbuffers alone.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rocketjax.inference.model import TextModel
from rocketjax.models.encoder import Params
from rocketjax.retrieval.model import Model
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import new_folder, write_json
from rocketjax.text.batch import Tokens
from rocketjax.text.tokenizer import Tokenizer

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(folder: Path, model: Model) -> str:
    """Writes both models' functions, parameters and tokenizers, whole or not at all.

    FOLDER/{encode_query,encode_passage,score}.stablehlo are of (parameters, ids [N, S], types
    [N, S], length [N]), int32; the parameters are the arrays of {retriever,reranker}.npz in order.
    functions.json says what is where, and how texts are read that the tokenizers' files leave open.

    Args:
        folder: must not exist.
        model: a pair; its retriever's vectors are float32 [N, D], its re-ranker's scores [N].

    Returns:
        What a caller is to do to texts before the tokenizer sees them; "" where that is nothing.

    Raises:
        InputError: `folder` exists or cannot be written, or flatbuffers is not installed.
    """
    if folder.exists():
        raise InputError(f"{folder}: already exists; delete it or export to another folder")
    retriever, reranker = model.retriever, model.reranker
    lengths = retriever.tokenizer.config
    functions = {
        "encode_query": ("retriever", retriever, "encode_query", lengths.query_length),
        "encode_passage": ("retriever", retriever, "encode_passage", lengths.passage_length),
        "score": ("reranker", reranker, "__call__", reranker.tokenizer.config.pair_length),
    }
    with new_folder(folder) as aside:
        about: dict[str, Any] = {}
        for name, (kind, of, method, limit) in functions.items():
            exported = _exported(of, method, limit)
            (aside / f"{name}.stablehlo").write_bytes(_serialized(exported))
            about[name] = {
                "file": f"{name}.stablehlo",
                "parameters": f"{kind}.npz",
                "tokenizer": f"{kind}-tokenizer",
                "longest": limit,
                "padding": of.tokenizer.pad_id,
                "calling_convention_version": exported.calling_convention_version,
                "platforms": list(PLATFORMS),
                **_reading(name, of.tokenizer),
            }
        for kind, of in (("retriever", retriever), ("reranker", reranker)):
            leaves = map(np.asarray, jax.tree.leaves(of.params))
            named = {f"{i:03}": leaf for i, leaf in enumerate(leaves)}
            np.savez(aside / f"{kind}.npz", **named)  # pyright: ignore[reportArgumentType]
            (aside / f"{kind}-tokenizer").mkdir()
            of.tokenizer.save(aside / f"{kind}-tokenizer")
        write_json(aside / "functions.json", about)
    to_do = {
        name: [f"{key} {entry[key]!r}" for key in ("prompt", "lower_case") if entry.get(key)]
        + ["title 'segment'"] * (entry.get("title") == "segment")
        for name, entry in about.items()
    }
    return "; ".join(f"{name}: {', '.join(some)}" for name, some in to_do.items() if some)


def _reading(name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """What is done to texts beside the tokenizer's own rules; docs/functions.md says how."""
    config = tokenizer.config
    both = {"lower_case": bool(config.lower_case), "segments": tokenizer.has_segments}
    if name == "encode_query":
        return both | {"prompt": config.query_prompt or ""}
    if name == "encode_passage":
        title = "segment" if config.title == "segment" else "joined"
        return both | {"prompt": config.passage_prompt or "", "title": title}
    if config.pair_truncation == "longest":
        return both | {"pair_truncation": "longest"}
    return both | {"pair_truncation": "passage", "query_longest": config.query_length}


def _exported(model: TextModel, method: str, limit: int) -> "jax.export.Exported":
    """A method of a model's module as a program of any number of texts and tokens."""
    compute = dataclasses.replace(model.module.compute, attention="xla")  # every platform has it
    module = model.module.clone(compute=compute)
    leaves, tree = jax.tree.flatten(model.params)

    def function(leaves: Params, ids: jax.Array, types: jax.Array, length: jax.Array) -> jax.Array:
        params = jax.tree.unflatten(tree, leaves)
        tokens = Tokens(ids, types, length)
        return module.apply({"params": params}, tokens, method=method)  # pyright: ignore

    texts, tokens = jax.export.symbolic_shape("n, s", constraints=[f"s <= {limit}"])
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    grid = jax.ShapeDtypeStruct((texts, tokens), jnp.int32)
    length = jax.ShapeDtypeStruct((texts,), jnp.int32)
    export = jax.export.export(jax.jit(function), platforms=PLATFORMS)
    return export(shapes, grid, grid, length)


def _serialized(exported: "jax.export.Exported") -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise InputError("StableHLO needs flatbuffers: pip install flatbuffers") from error
