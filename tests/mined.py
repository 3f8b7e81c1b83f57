"""Lists of all queries at once, as mining makes them one query after the other."""

from rocketjax.mining.augment import lists_of
from rocketjax.mining.report import Tally


def hybrid_lists(candidates, calibration, config, seed):
    """The lists, and what was done, counted."""
    tally = Tally(calibration, config)
    lists = [item for row in candidates for item in lists_of(row, calibration, config, seed, tally)]
    return lists, tally.report()
