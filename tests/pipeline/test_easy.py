"""A warm-up that begins with easy lists: which lists a step sees, wherever it is resumed."""

from types import SimpleNamespace

from rocketjax.config.schema import Config
from rocketjax.data.lists import TrainingList
from rocketjax.pipeline.batches import EasyFirst


class Collator:
    """Batches are the lists themselves."""

    stored = False

    @property
    def queries(self):
        return {f"{kind}{i}": "asked" for kind in ("easy", "hard") for i in range(20)}

    def fitted(self, lists, batch):
        assert {item.query[:4] for item in lists} == {"easy", "hard"}  # one program for both
        return self

    def __call__(self, lists):
        return list(lists)


def feeds(length):
    run = SimpleNamespace(config=Config(), collection=SimpleNamespace(fingerprint="f"))
    easy, hard = (
        [TrainingList(f"{kind}{i}", "p", ("n",)) for i in range(20)] for kind in ("easy", "hard")
    )
    return EasyFirst(run, easy, hard, Collator(), 4, length)


def test_easy_lists_come_first_and_the_others_go_on_where_a_run_resumes():
    """Rounds are as long as the easy part: the third must not begin with the second's lists."""
    some = feeds(length=2)
    seen = []
    for step in range(7):
        feed = some.from_step(step, {})
        batch = next(feed.batches)
        assert feed.queries_of(step) == [item.query for item in batch]
        seen.append([item.query for item in batch])
    assert [{query[:4] for query in batch} for batch in seen] == [{"easy"}] * 2 + [{"hard"}] * 5
    whole = some.from_step(2, {}).batches
    assert [[item.query for item in next(whole)] for _ in range(5)] == seen[2:]
    assert len({query for batch in seen for query in batch}) == 28  # none is seen twice
    hashes = {some.from_step(step, {}).lists for step in (0, 1)}
    assert hashes.isdisjoint({some.from_step(2, {}).lists}) and len(hashes) == 1
