"""sentence-transformers' models in ONNX Runtime and OpenVINO.

Its own backends of these names need optimum, no release of which goes with transformers 5. So
torch exports the model here, with what sentence-transformers does to its states, and texts are
dealt as sentence-transformers deals them: sorted by length, each batch padded to its longest.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from rocketjax.bench.work import Work

Text = str | tuple[str, str]
Run = Callable[[dict[str, np.ndarray]], np.ndarray]
EXPORTED = ("onnx", "openvino")  # and "int8": ONNX Runtime, weights quantised
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def encode(runtime: str, work: Work) -> Callable[[int], Any]:
    """Passages to vectors of length 1, the mean of their tokens' states."""
    model = _Vectors(AutoModel.from_pretrained(work.weights, use_safetensors=True))
    run = _dealt(_session(runtime, model), work.weights, work.passage_length)
    return lambda batch: run(work.passages, batch)


def rerank(runtime: str, work: Work) -> Callable[[int], Any]:
    """Pairs to scores."""
    score = scorer(runtime, work.reranker or work.weights, work.pair_length)
    return lambda batch: score(work.pairs, batch)


def scorer(runtime: str, folder: str, length: int) -> Callable[[Sequence[Text], int], np.ndarray]:
    """What gives pairs their scores, so many at once."""
    return _dealt(_session(runtime, _judge(folder)), folder, length)


def _judge(folder: str) -> nn.Module:
    return _Scores(
        AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, use_safetensors=True
        )
    )


class _Vectors(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.model(**_named(self.model, inputs)).last_hidden_state
        seen = inputs[1].unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * seen).sum(1) / seen.sum(1), dim=-1)


class _Scores(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**_named(self.model, inputs)).logits


def _named(model: Any, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs by name; models such as ModernBERT take no segments."""
    taken = INPUTS if getattr(model.config, "type_vocab_size", 0) else INPUTS[:2]
    return dict(zip(taken, inputs, strict=False))


def _dealt(run: Run, folder: str, length: int) -> Callable[[Sequence[Text], int], np.ndarray]:
    """What runs all of some texts, so many at once."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def all_of_them(texts: Sequence[Text], batch: int) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: -len("".join(texts[i])))
        results: list[Any] = [None] * len(texts)
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            chosen = [texts[i] for i in some]
            tokens = tokenizer(
                chosen, padding=True, truncation=True, max_length=length, return_tensors="np"
            )
            zeros = np.zeros_like(tokens["input_ids"])  # segments, if the tokenizer gives none
            rows = run({name: tokens.get(name, zeros).astype(np.int64) for name in INPUTS})
            for i, row in zip(some, rows, strict=True):
                results[i] = row
        return np.stack(results)

    return all_of_them


def _session(runtime: str, model: nn.Module) -> Run:
    """The model exported and opened by a runtime: inputs by name to results, a row each."""
    free = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)  # texts, and tokens of the longest
    example = tuple(torch.ones(2, 16, dtype=torch.long) for _ in INPUTS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model.eval(),
            example,
            str(path),
            dynamo=True,
            input_names=list(INPUTS),
            dynamic_shapes=((free,) * len(INPUTS),),
        )
        if runtime == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            path, whole = path.with_name("int8.onnx"), path
            quantize_dynamic(whole, path, weight_type=QuantType.QInt8)
        if runtime in ("onnx", "int8"):
            import onnxruntime

            session: Any = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
            known = {each.name for each in session.get_inputs()}
            return lambda tokens: session.run(None, {name: tokens[name] for name in known})[0]
        import openvino

        program = openvino.compile_model(str(path), "CPU")
        known = {name for each in program.inputs for name in each.names}
        return lambda tokens: program({name: tokens[name] for name in INPUTS if name in known})[0]
