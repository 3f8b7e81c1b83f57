"""python dying.py SIGNAL MODULE:NAME CALLS ARGS..: rocketjax.train ARGS, which signals itself.

The signal comes as MODULE's NAME is called for the CALLS-th time.
"""

import functools
import importlib
import os
import signal
import sys

from rocketjax import train


def main(name, place, calls, *args):
    module, path = place.split(":")
    *owners, function = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    real, count = getattr(owner, function), [0]

    def dies(*args, **options):
        count[0] += 1
        if count[0] == int(calls):
            os.kill(os.getpid(), getattr(signal, name))
        return real(*args, **options)

    setattr(owner, function, dies)
    return train.main(args)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
