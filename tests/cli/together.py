"""What test_hosts.py runs in several processes at once: python together.py WHAT ARGUMENTS.

Each process knows its place by the options it is given, or by the environment.
"""

import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest


def train(die_at, *args):
    """The command; process 1 is killed once it has done this step of joint training."""
    from rocketjax.train import main
    from rocketjax.training.journal import TrainLog

    write = TrainLog.write

    def dies(self, values):
        write(self, values)
        if self.stage == "joint" and values["step"] == int(die_at) and "1" in args[-1:]:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainLog.write = dies
    return main(args)


def whole(folder, config, weights, other, collection):
    """Trains, mines with what it trained, and runs the parts: each start takes its time."""
    from rocketjax import mine, train
    from rocketjax.cli import command as cli
    from rocketjax.config.schema import HostsConfig

    folder = Path(folder)

    def command():
        with cli.joined(HostsConfig(timeout=300)), pytest.MonkeyPatch.context() as patch:
            for module in (cli, train):  # a process joins only once
                patch.setattr(module, "joined", lambda _: nullcontext())
            run = ["--run-dir", str(folder / "run")]
            assert train.main(["--config", config, *run]) == 0
            lists = ["--lists.length", "4", "--lists.top-n", "20", "--lists.low", "0.6"]
            lists += ["--lists.calibration", "sigmoid", "--max-queries", "12"]
            place = ["--model", str(folder / "run"), "--output", str(folder / "mined")]
            assert mine.main([*place, *lists]) == 0
            _parts(weights, collection, folder)
            _refused(folder, collection, weights, other)

    return cli.run_command(command)


def _parts(weights, collection, folder):
    """Dealing, both backends, encoding and searching; what each process saw goes into a file."""
    import jax
    from test_hosts import encoded, searched, stepped

    from rocketjax.runtime.devices import all_devices

    values = {}
    for backend in ("pmap", "shard_map"):
        values |= stepped(backend, all_devices())
    values |= searched(encoded(weights, collection, folder / "vectors"), weights)
    np.savez(folder / f"{jax.process_index()}.npz", **values)


def _refused(folder, collection, *weights):
    """What two processes tell each other, and what they refuse; by what they said."""
    import jax
    from test_hosts import TEXT

    from rocketjax.cli import command as cli
    from rocketjax.config.schema import Config, DataConfig, RetrieverConfig
    from rocketjax.pipeline import context
    from rocketjax.pipeline.models import start_retriever
    from rocketjax.runtime import processes as distributed
    from rocketjax.runtime.progress import unwatched

    me = jax.process_index()
    if jax.process_count() == 1:
        return
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    assert distributed.from_main(lambda: {"who": jax.process_index()}) == {"who": 0}
    assert distributed.allgather(me) == [0, 1]
    order = []
    distributed.main_first(lambda: order.append(time.time()))
    assert distributed.allgather(order)[0] < distributed.allgather(order)[1]
    distributed.check_shared(folder)

    def start():
        """Each process is given the weights of its own place."""
        given = RetrieverConfig(weights[me])
        data = DataConfig(collection, max_eval_queries=5)
        config = Config(data=data, text=TEXT, retriever=given)
        work = context.open_run(config, folder / "new", context.Watching(cli.say, unwatched))
        start_retriever(work)

    faults = {
        "folder": lambda: distributed.check_shared(folder / str(me)),
        "options": lambda: distributed.check_same("options", f"a: 1\nb: {me}"),
        "weights": start,
    }
    said = {}
    for name, fault in faults.items():
        with pytest.raises(ValueError) as raised:
            fault()
        said[name] = str(raised.value)
    (folder / f"{me}.json").write_text(json.dumps(said))


def stop(folder, name):
    """Asks in every step whether to stop, until a signal to one of them says so to all.

    Process 0 is slow to save the step at which they stop.
    """
    import jax.numpy as jnp
    from test_hosts import state_of

    from rocketjax.cli import command as cli
    from rocketjax.config.schema import HostsConfig
    from rocketjax.runtime import processes as distributed
    from rocketjax.runtime import signals as preemption
    from rocketjax.training import checkpoint
    from rocketjax.training import trainer as training

    sums, folder = checkpoint._sums, Path(folder)
    checkpoint._sums = lambda path: (time.sleep(3), sums(path))[1]

    def command():
        with (
            cli.joined(HostsConfig(timeout=30)),
            checkpoint.Checkpoints(folder / "saved", 2, print) as saved,
            preemption.deferred() as told,
            training.leaving_together(saved),
        ):
            import jax

            asked = distributed.stop_together(told)
            me, step = jax.process_index(), 0
            while not asked():
                step += 1
                time.sleep(0.01 * (1 + me))  # one is slower than the other
                distributed.barrier()
                if step == 20 and me == 1:
                    os.kill(os.getpid(), getattr(signal, name))
            (folder / str(me)).write_text(json.dumps(step))
            saved.save(step, state_of(jnp.arange(3.0)), {})
            raise preemption.Preempted

    return cli.run_command(command)


def idle(ready):
    """Says that all are there, and waits."""
    from rocketjax.cli import command as cli
    from rocketjax.config.schema import HostsConfig

    def command():
        with cli.joined(HostsConfig(timeout=20)):
            from rocketjax.runtime import processes as distributed

            distributed.barrier()
            if distributed.is_main():
                Path(ready).touch()
            time.sleep(100)

    return cli.run_command(command)


def fails(ready, who):
    """One process finds something wrong, once all are there."""
    from rocketjax.cli import command as cli
    from rocketjax.config.schema import HostsConfig
    from rocketjax.runtime.errors import InputError

    def command():
        with cli.joined(HostsConfig(timeout=60)):
            import jax

            from rocketjax.runtime import processes as distributed

            distributed.barrier()
            if distributed.is_main():
                Path(ready).touch()
            distributed.barrier()
            if jax.process_index() == int(who):
                raise InputError("the disk is full")
            distributed.barrier()

    return cli.run_command(command)


def told_apart():
    """What is printed here goes out; what jax's library for CPUs (Gloo) says, to the errors.

    Its threads write their greetings into each other's, so no filter knows them by their lines.
    """
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


if __name__ == "__main__":
    told_apart()
    sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))
