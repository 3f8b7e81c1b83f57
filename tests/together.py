"""What test_hosts.py runs in several processes at once: python together.py WHAT ARGUMENTS.

Each process knows its place by the options it is given, or by the environment.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np


def train(die_at, *args):
    """The command; process 1 is killed once it has done this step of joint training."""
    from rocketjax.train import main
    from rocketjax.train_log import TrainLog

    write = TrainLog.write

    def dies(self, values):
        write(self, values)
        if self.stage == "joint" and values["step"] == int(die_at) and "1" in args[-1:]:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainLog.write = dies
    return main(args)


def mine(*args):
    """The command."""
    from rocketjax.mine import main

    return main(args)


def parts(weights, collection, folder):
    """Dealing, both backends, encoding and searching; what each process saw goes into a file."""
    from rocketjax import cli
    from rocketjax.config import HostsConfig

    def command():
        with cli.joined(HostsConfig(timeout=30)):
            _parts(weights, collection, Path(folder))

    return cli.run(command)


def _parts(weights, collection, folder):
    import jax
    from test_hosts import encoded, searched, stepped

    from rocketjax import distributed
    from rocketjax.parallel import all_devices

    me = jax.process_index()
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    assert distributed.from_main(lambda: {"who": jax.process_index()}) == {"who": 0}
    assert distributed.everyones(me) == [0, 1]
    order = []
    distributed.main_first(lambda: order.append(time.time()))
    assert distributed.everyones(order)[0] < distributed.everyones(order)[1]
    distributed.check_shared(folder)
    try:
        distributed.check_shared(folder / str(me))
    except ValueError as error:
        assert "process 1" in str(error) and "does not see what process 0" in str(error)
    else:
        raise AssertionError("two folders were taken for one")
    try:
        distributed.check_same("options", f"a: 1\nb: {me}")
    except ValueError as error:
        assert "has b: 1, but process 0" in str(error)
    else:
        raise AssertionError("two configs were taken for one")
    values = {}
    for backend in ("pmap", "shard_map"):
        values |= stepped(backend, all_devices())
    values |= searched(encoded(weights, collection, folder / "vectors"), weights)
    np.savez(folder / f"{me}.npz", **values)


def stop(folder, name):
    """Asks in every step whether to stop, until a signal to one of them says so to all."""
    from rocketjax import cli, distributed, hosts, preemption
    from rocketjax.config import HostsConfig

    with preemption.heeded(), cli.joined(HostsConfig(timeout=30)), preemption.deferred() as told:
        import jax

        asked = distributed.together(told)
        me, step = jax.process_index(), 0
        while not asked():
            step += 1
            time.sleep(0.01 * (1 + me))  # one is slower than the other
            distributed.barrier()
            if step == 20 and me == 1:
                os.kill(os.getpid(), getattr(signal, name))
        (Path(folder) / str(me)).write_text(json.dumps(step))
        distributed.barrier()  # as training does: who leaves ends the others
        return hosts.leave(75, "stopped")


def saves(folder):
    """Process 0 is slow to save what all hold when they are to stop."""
    import jax.numpy as jnp
    from test_hosts import state_of

    from rocketjax import checkpoint, cli, training
    from rocketjax.config import HostsConfig
    from rocketjax.preemption import Preempted

    sums = checkpoint._sums
    checkpoint._sums = lambda path: (time.sleep(5), sums(path))[1]

    def command():
        with (
            cli.joined(HostsConfig(timeout=30)),
            checkpoint.Checkpoints(Path(folder), 2, print) as saved,
            training.leaving_together(saved),
        ):
            saved.save(7, state_of(jnp.arange(3.0)), {})
            raise Preempted

    return cli.run(command)


def weighs(collection, folder, *weights):
    """Each process is given the weights of its own place."""
    import jax
    from test_hosts import TEXT

    from rocketjax import cli, pipeline, workspace
    from rocketjax.config import Config, DataConfig, HostsConfig, RetrieverConfig
    from rocketjax.progress import unwatched

    def command():
        with cli.joined(HostsConfig(timeout=30)):
            given = RetrieverConfig(weights[jax.process_index()])
            data = DataConfig(collection, max_eval_queries=5)
            config = Config(data=data, text=TEXT, retriever=given)
            work = pipeline._context(config, Path(folder), print, unwatched)
            workspace.start_retriever(work)

    return cli.run(command)


def idle(ready):
    """Says that all are there, and waits."""
    from rocketjax import cli
    from rocketjax.config import HostsConfig

    def command():
        with cli.joined(HostsConfig(timeout=10)):
            from rocketjax import distributed

            distributed.barrier()
            if distributed.is_main():
                Path(ready).touch()
            time.sleep(100)

    return cli.run(command)


def fails(who, ready):
    """One process finds something wrong."""
    from rocketjax import cli
    from rocketjax.config import HostsConfig
    from rocketjax.errors import InputError

    def command():
        with cli.joined(HostsConfig(timeout=60)):
            import jax

            from rocketjax import distributed

            distributed.barrier()
            if jax.process_index() == int(who):
                raise InputError("the disk is full")
            distributed.barrier()

    return cli.run(command)


def told_apart():
    """What is printed here goes out; what jax's library for CPUs (Gloo) says, to the errors.

    Its threads write their greetings into each other's, so no filter knows them by their lines.
    """
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


if __name__ == "__main__":
    told_apart()
    sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))
