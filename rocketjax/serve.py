"""python -m rocketjax.serve: a page to search with both models, and a JSON API."""

import contextlib
import dataclasses
import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from rocketjax.cli.command import keep_programs, parse_options, run_command, say
from rocketjax.config.fields import Size
from rocketjax.config.schema import ComputeConfig
from rocketjax.serving.requests import Limits
from rocketjax.serving.server import listen, make_server

if TYPE_CHECKING:
    from rocketjax.serving.answers import Answers


Port = Annotated[int, pydantic.Field(ge=0, le=65_535)]


@dataclass(frozen=True)
class Serve:
    """Serves a page that shows the retriever's and the re-ranker's rankings side by side.

    Beside it a JSON API: GET /search?q=..&top_k=.., POST /search, POST /score, GET /health.

    Example: python -m rocketjax.serve --model runs/demo
    """

    model: str = "runs/demo"
    """Folder of a finished run; or, with --reranker, --index and --collection, any retriever: its
    folder, or weights by folder or hub name."""
    reranker: str = ""
    """A re-ranker instead of the run's: a folder, or a cross-encoder's hub name."""
    collection: str = ""
    """The collection; empty: the run's."""
    on_bad_rows: Literal["fail", "skip"] = "fail"
    """Rows of --collection that are not what they should be: fail, or skip and count them."""
    index: str = ""
    """Folder of vectors of that collection by that model, searched by ScaNN where that was built
    there, else exactly; empty: the run's index."""
    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine can reach it. There is no password."""
    port: Port = 8000
    """0: any that is free; the address is printed."""
    depth: Size = 50
    """Passages the retriever finds and the re-ranker orders; the most that top_k may be."""
    limits: Limits = field(default_factory=Limits)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Here compute.batch 0 means 4 on a CPU and 32 elsewhere: an answer fills few batches."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 0 where a signal ended it."""
    return run_command(lambda: _serve(parse_options(Serve, args, "rocketjax.serve")))


def _serve(options: Serve) -> None:
    from rocketjax.runtime.signals import Preempted
    from rocketjax.serving.app import LOOPBACK, make_app
    from rocketjax.serving.batcher import Batcher

    limits = options.limits
    # The server has finished the requests at hand when it passes a signal on; what comes before it
    # leaves nothing that another start would go on from.
    ending = contextlib.suppress(KeyboardInterrupt, Preempted)
    # Taken before the model is read: a port in use is known at once, and who comes early waits.
    with ending, listen(options.host, options.port) as listening:
        keep_programs()
        answers = open_answers(options)
        say("compiling")
        answers.warm_up()
        address, port = listening.getsockname()[:2]
        local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        name = f"[{options.host}]" if ":" in options.host else options.host
        if not local:
            say(
                f"warning: whoever can reach {name} can search here; there is no password, and "
                "what is sent can be read on its way. --host 127.0.0.1 keeps it to this machine"
            )
        hosts = {*LOOPBACK, name.lower()} if local else ()
        with Batcher(limits.together, limits.waiting, 1e-3 * limits.gather) as batcher:
            app = make_app(answers, batcher, limits, options.model, hosts)
            server = make_server(app, limits)
            say(f"ready at http://{name}:{port}/ (Ctrl-C ends it)")
            server.run(sockets=[listening])
    say("ended")


def open_answers(options: Serve) -> "Answers":
    """What answers: both models, the index and its passages.

    Raises:
        InputError: one of them is missing or damaged, or of another model; it is named.
    """
    from rocketjax.inference.folder import open_reranker, open_retriever
    from rocketjax.retrieval.load import collection_for, open_corpus
    from rocketjax.serving.answers import Answers

    compute = options.compute
    if not compute.batch:
        import jax

        on_cpu = jax.default_backend() == "cpu"
        compute = dataclasses.replace(compute, batch=4 if on_cpu else 32)
    retriever = open_retriever(options.model, compute)
    reranker = open_reranker(options.reranker or options.model, compute)
    folder = Path(options.model)
    collection = collection_for(folder, options.collection, options.on_bad_rows, say)
    corpus = open_corpus(folder, retriever, collection, options.index, say)
    return Answers(retriever, reranker, corpus, options.depth)


if __name__ == "__main__":
    sys.exit(main())
