"""Programs that need no rocketjax: they compute what the models do, of any shape."""

import json
import subprocess
import sys

import numpy as np
import pytest
from on_disk import untrained_pair

from rocketjax.config.schema import TextConfig
from rocketjax.functional.stablehlo import export_stablehlo
from rocketjax.runtime.errors import InputError

PROGRAM = """
import json, sys
from importlib.abc import MetaPathFinder
class Hidden(MetaPathFinder):
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("rocketjax", "flax", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
from pathlib import Path
import jax
import numpy as np
folder = Path(sys.argv[1])
about = json.loads((folder / "functions.json").read_text())
for line in sys.stdin:
    name, *arrays = json.loads(line)
    function = jax.export.deserialize((folder / about[name]["file"]).read_bytes())
    parameters = [a for _, a in sorted(np.load(folder / about[name]["parameters"]).items())]
    out = function.call(parameters, *(np.array(a, np.int32) for a in arrays))
    print(json.dumps(np.asarray(out).tolist()))
"""


def test_programs_compute_what_the_models_do_without_rocketjax(weights, tmp_path):
    pytest.importorskip("flatbuffers", reason="the extra `stablehlo` brings flatbuffers")
    lengths = {"query_length": 12, "passage_length": 16, "pair_length": 24}
    text = TextConfig(**lengths, query_prompt="sun ", title="segment", lower_case=True)
    pair = untrained_pair(weights, text)
    to_do = export_stablehlo(tmp_path / "programs", pair)
    from rocketjax import Functions

    functions, words = Functions(pair), ["cat dog", "sun", "tree"]
    asked = {
        "encode_query": (functions.tokenize_queries(words), pair.encode_query(words)),
        "encode_passage": (functions.tokenize_passages(words[:1]), pair.encode_passage(words[:1])),
        "score": (functions.tokenize_pairs(words, words), pair.score(words, words)),
    }
    lines = [json.dumps([name, *(x.tolist() for x in t)]) for name, (t, _) in asked.items()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "programs")],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line, (_, wanted) in zip(done.stdout.splitlines(), asked.values(), strict=True):
        np.testing.assert_allclose(json.loads(line), wanted, atol=2e-5)
    about = json.loads((tmp_path / "programs" / "functions.json").read_text())
    assert about["score"]["longest"] == 24 and about["score"]["platforms"] == ["cpu", "cuda", "tpu"]
    lower = "lower_case True"
    assert to_do == (
        f"encode_query: prompt 'sun ', {lower}; encode_passage: {lower}, title 'segment'; "
        f"score: {lower}"
    )
    keys = ("prompt", "title", "lower_case", "pair_truncation", "query_longest")
    assert [{k: about[n][k] for k in keys if k in about[n]} for n in about] == [
        {"prompt": "sun ", "lower_case": True},
        {"prompt": "", "title": "segment", "lower_case": True},
        {"lower_case": True, "pair_truncation": "passage", "query_longest": 12},
    ]
    assert (tmp_path / "programs" / "reranker-tokenizer" / "tokenizer.json").is_file()
    with pytest.raises(InputError, match="already exists"):
        export_stablehlo(tmp_path / "programs", pair)
