"""python -m rocketjax.serve: a search page that shows both models at work, and a JSON API."""

import contextlib
import ipaddress
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pydantic

from rocketjax.cli.command import command, keep_programs, say
from rocketjax.config.fields import (
    NormalizeOption,
    OnBadRows,
    PoolingOption,
    Positive,
    Size,
    TruncateOption,
)
from rocketjax.config.schema import ComputeConfig, TextOptions
from rocketjax.serving.requests import Limits

if TYPE_CHECKING:
    from rocketjax.serving.answers import Answers


Port = Annotated[int, pydantic.Field(ge=0, le=65_535)]


@dataclass(frozen=True)
class Serve:
    """Serves a search page that shows the retriever's and the re-ranker's rankings side by side.

    It comes with a JSON API: GET /search?q=..&top_k=.., POST /search, POST /score, GET /health.

    Example: python -m rocketjax.serve --model runs/demo
    """

    model: str = "runs/demo"
    """Folder of a finished run. Together with --reranker, --index and --collection also any
    retriever: its folder, or weights by folder or hub name."""
    reranker: str = ""
    """Re-ranker to use instead of the run's: a folder, or the hub name of a cross-encoder."""
    collection: str = ""
    """Collection to search; empty for the run's."""
    on_bad_rows: OnBadRows = "fail"
    index: str = ""
    """Folder of that model's vectors of the collection; empty for the run's index. It is searched
    with ScaNN if it holds a ScaNN index, exactly otherwise."""
    host: str = "127.0.0.1"
    """Address to listen on. Only this machine can reach the default; there is no password."""
    port: Port = 8000
    """Port to listen on; 0 for any free one. The address is printed."""
    depth: Size = 50
    """Passages per query that the retriever finds and the re-ranker orders; the largest top_k."""
    budget_ms: Positive | None = None
    """Milliseconds in which a batch of searches is re-ranked, as far as they suffice, in the
    retriever's order; the passages that are not reached follow in that order, marked as not
    re-ranked. A request may lower it. At least what the devices take at once is re-ranked. None:
    all --depth passages are re-ranked, however long it takes."""
    text: TextOptions = field(default_factory=TextOptions)
    """How both models read texts; what is not given is as the model's folder says."""
    pooling: PoolingOption = "auto"
    normalize: NormalizeOption = None
    truncate: TruncateOption = None
    limits: Limits = field(default_factory=Limits)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """How to compute. Here --compute.batch 0 means 4 on a CPU and 32 elsewhere, since a request
    fills few batches."""


def _serve(options: Serve) -> None:
    from rocketjax.runtime.signals import Preempted
    from rocketjax.serving.app import LOOPBACK, make_app
    from rocketjax.serving.batcher import Batcher
    from rocketjax.serving.server import listen, make_server, refuse_running_loop

    refuse_running_loop()
    limits = options.limits
    # A signal is a normal end: uvicorn finishes the running requests before it raises it again,
    # and until the server runs there is nothing to save.
    ending = contextlib.suppress(KeyboardInterrupt, Preempted)
    # Bound before the models are read, to report a port in use at once; early clients wait.
    with ending, listen(options.host, options.port) as listening:
        keep_programs()
        answers = open_answers(options)
        say("compiling")
        answers.warm_up()
        address, port = listening.getsockname()[:2]
        if options.budget_ms is not None:
            say(
                f"re-ranking stops after {options.budget_ms:g} ms (--budget-ms): answers and "
                "/health say what was not re-ranked"
            )
        local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        name = f"[{options.host}]" if ":" in options.host else options.host
        if not local:
            say(
                f"warning: anyone who can reach {name} can search here; there is no password and "
                "no encryption. --host 127.0.0.1 limits access to this machine"
            )
        hosts = {*LOOPBACK, name.lower()} if local else ()
        with Batcher(limits.together, limits.waiting, 1e-3 * limits.gather) as batcher:
            app = make_app(answers, batcher, limits, options.model, hosts)
            server = make_server(app, limits)
            say(f"ready at http://{name}:{port}/ (Ctrl-C to stop)")
            server.run(sockets=[listening])
    say("stopped")


def open_answers(options: Serve) -> "Answers":
    """Opens both models, the index and its passages.

    Raises:
        InputError: one of them, which is named, is missing or damaged, or the index is of another
            model.
    """
    from rocketjax.inference.folder import open_reranker, open_retriever
    from rocketjax.retrieval.load import collection_for, open_corpus
    from rocketjax.serving.answers import Answers, for_requests

    compute = for_requests(options.compute)
    retriever = open_retriever(
        options.model,
        compute,
        options.text,
        options.pooling,
        options.normalize,
        say,
        options.truncate,
    )
    reranker = open_reranker(options.reranker or options.model, compute, options.text, say)
    folder = Path(options.model)
    collection = collection_for(folder, options.collection, options.on_bad_rows, say)
    corpus = open_corpus(folder, retriever, collection, options.index, say)
    return Answers(retriever, reranker, corpus, options.depth, options.budget_ms)


main = command(Serve, _serve)

if __name__ == "__main__":
    sys.exit(main())
