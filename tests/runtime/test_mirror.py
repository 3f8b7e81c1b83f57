"""Folders kept in Google Cloud Storage: whole at every moment, one process at a time."""

import json
import os
import shutil
from contextlib import contextmanager, nullcontext, suppress
from functools import partialmethod

import pytest
from emulated import emulator, fresh_machine, needs_emulator
from waiting import until

from rocketjax.runtime import lease
from rocketjax.runtime.cloud import Cloud, own_folder
from rocketjax.runtime.commits import COMMIT, files_of, link_files, nothing
from rocketjax.runtime.copies import local
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.follower import Follower
from rocketjax.runtime.lock import held
from rocketjax.runtime.mirror import Mirror, mirrored
from rocketjax.runtime.workplace import opened

ADDRESS = "gs://data/runs/some"
pytestmark = needs_emulator


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setattr(lease, "EVERY", 0.05)
    monkeypatch.setattr(lease, "STALE", 0.5)
    monkeypatch.setattr(lease, "LOOK", 0.02)
    fresh_machine(monkeypatch, tmp_path / "first")
    with emulator() as running:
        yield running


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder, nothing)}


def write(folder, files):
    """Makes a folder hold these files and no others, in an order that a run could have."""
    for name in files_of(folder, nothing):
        if name not in files:
            (folder / name).unlink()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.with_name(".aside").write_bytes(data)
            path.with_name(".aside").replace(path)


def seen(said=None):
    """What the address holds, as another machine would find it."""
    with opened(ADDRESS, (said if said is not None else []).append) as place:
        return contents(place.folder)


class Lost(BaseException):
    """The machine is gone."""


@contextmanager
def on_a_machine_that_is_lost(bucket):
    """No request of it gets through once the block ends."""
    try:
        with opened(ADDRESS, lambda _: None) as place:
            yield place
            bucket.refuse = lambda method, name: True
            raise Lost
    except Lost:
        pass
    finally:
        bucket.refuse = lambda method, name: False


FIRST = {"log.jsonl": b"1\n", "stages.json": b"{}", "checkpoints/2/state": b"x" * 999, "a/b": b""}
SECOND = {"log.jsonl": b"1\n2\n", "stages.json": b'{"start": 1}', "model/weights": b"y" * 99}


def test_what_is_committed_is_there_on_another_machine(bucket, monkeypatch, tmp_path):
    said = []
    with opened(ADDRESS, said.append) as place:
        assert contents(place.folder) == {}
        write(place.folder, FIRST)
        (place.folder / ".half.1").write_text("half-written")
        place.commit()
    assert not said
    fresh_machine(monkeypatch, tmp_path / "second")
    with opened(ADDRESS, said.append) as place:
        assert contents(place.folder) == FIRST
        write(place.folder, SECOND)
    assert "fetching 4 files, 0.00 MB" in said[0]
    fresh_machine(monkeypatch, tmp_path / "third")
    assert seen() == SECOND
    # By their own names, for other tools; nothing half-written, no lock, and nothing aside.
    own = {name.removeprefix("runs/some/"): data for name, data in bucket.objects.items()}
    del own[COMMIT]
    assert own == SECOND


@pytest.mark.parametrize("machine", ["same", "another"])
def test_a_kill_at_any_request_leaves_one_of_the_two_commits(
    bucket, monkeypatch, tmp_path, machine
):
    """Each request that writes is, in turn, the first that does not get through."""
    outcomes = []
    for count in range(0, 1000, 4 if machine == "same" else 1):
        fresh_machine(monkeypatch, tmp_path / f"machine{count}")
        with opened(ADDRESS, lambda _: None) as place:
            write(place.folder, FIRST)
        writes, wrote = [], False

        def cut(method, name, writes=writes, count=count):
            if name != "runs/some/.lock" and method != "GET":
                writes.append(name)
            return len(writes) > count

        bucket.refuse = cut
        with suppress(InputError), opened(ADDRESS, lambda _: None) as place:
            write(place.folder, SECOND)
            wrote = True
        bucket.refuse = lambda method, name: False
        if machine == "another":
            fresh_machine(monkeypatch, tmp_path / f"other{count}")
        found = seen()
        assert found in (FIRST, SECOND)
        assert machine == "another" or found == (SECOND if wrote else FIRST)
        own = {name.removeprefix("runs/some/") for name in bucket.objects} - {COMMIT}
        assert own == found.keys()  # nothing is left over, nor aside
        outcomes.append(found == SECOND)
        if len(writes) <= count:
            break
    # The first commit, and from some request on the second.
    assert outcomes == sorted(outcomes) and not outcomes[0] and outcomes[-1]


def test_work_on_this_machine_that_nobody_else_followed_is_kept(bucket, monkeypatch, tmp_path):
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, FIRST)
    with on_a_machine_that_is_lost(bucket) as place:
        write(place.folder, SECOND)
    said = []
    assert seen(said) == SECOND and not said  # the lock is its own, and nothing need be fetched


@pytest.mark.parametrize("hidden", ["gone", "left"])
def test_a_work_folder_that_was_deleted_is_not_newer(bucket, hidden):
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, FIRST)
    if hidden == "gone":
        shutil.rmtree(place.folder)
    else:
        write(place.folder, {})
    said = []
    assert seen(said) == FIRST and "fetching 4 files" in said[0]
    assert {f"runs/some/{name}" for name in FIRST} < bucket.objects.keys()


def test_a_work_folder_that_is_deleted_meanwhile_is_not_committed(bucket):
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, FIRST)
    for left in ({}, {"log.jsonl": b"after"}):
        refused = pytest.raises(InputError, match=f"was deleted or emptied.* is at {ADDRESS}")
        with refused, opened(ADDRESS, lambda _: None) as place:
            shutil.rmtree(place.folder)
            write(place.folder, left)
        assert seen() == FIRST


def test_work_that_another_machine_followed_gives_way(bucket, monkeypatch, tmp_path):
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, FIRST)
    with on_a_machine_that_is_lost(bucket) as place:
        write(place.folder, {"log.jsonl": b"other"})
    fresh_machine(monkeypatch, tmp_path / "second")
    said = []
    with opened(ADDRESS, said.append) as place:
        assert contents(place.folder) == FIRST
        write(place.folder, SECOND)
    assert "has the lock; watching whether it still lives" in said[0]
    fresh_machine(monkeypatch, tmp_path / "first")
    assert seen() == SECOND


def test_two_machines_do_not_work_at_one_address(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(lease, "STALE", 60.0)  # however late its next sign of life
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, FIRST)
        fresh_machine(monkeypatch, tmp_path / "second")
        with pytest.raises(InputError, match=f"process {os.getpid()} on .* is at work here"):
            seen()
    assert seen() == FIRST


def test_who_was_held_up_for_too_long_writes_no_more(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(lease, "EVERY", 3600)  # no sign of life, and no look at the lock
    refused = pytest.raises(InputError, match="another process has committed here since")
    said = []
    with refused, opened(ADDRESS, said.append) as place:
        write(place.folder, FIRST)
        folder = place.folder
        fresh_machine(monkeypatch, tmp_path / "second")
        with opened(ADDRESS, lambda _: None) as other:
            write(other.folder, SECOND)
            write(folder, {"log.jsonl": b"late"})
            place.commit()  # does not know yet, and is about to commit
            until(lambda: said)
    assert seen() == SECOND


def test_a_state_is_as_it_was_whatever_is_done_next(bucket, tmp_path):
    folder, aside = tmp_path / "run", tmp_path / "aside"
    write(folder, FIRST | {".lock": b"", "skipped/x": b"x"})
    files = link_files(folder, aside, lambda path: path.name == "skipped")
    with (folder / "log.jsonl").open("ab") as log:
        log.write(b"2\n")
    write(folder, {"stages.json": b"later", "log.jsonl": b"1\n2\n"})
    state = {name: (aside / name).read_bytes()[: file.size] for name, file in files.items()}
    assert state == FIRST


def test_a_log_that_grows_is_taken_at_its_length(bucket, monkeypatch, tmp_path):
    with on_a_machine_that_is_lost(bucket) as place:
        write(place.folder, FIRST)
        real, folder = Cloud.put, place.folder

        def put(self, name, path, size, md5):
            with (folder / "log.jsonl").open("ab") as log:
                log.write(b"more\n")
            real(self, name, path, size, md5)

        monkeypatch.setattr(Cloud, "put", put)
        place.commit()
        until(lambda: {f"runs/some/{COMMIT}", "runs/some/log.jsonl"} <= bucket.objects.keys())
        monkeypatch.setattr(Cloud, "put", real)
    fresh_machine(monkeypatch, tmp_path / "second")
    assert seen() == FIRST


def test_what_could_not_be_uploaded_is_said_and_tried_again(bucket):
    said = []
    refused = pytest.raises(InputError, match="the same command on this machine resumes")
    with refused, opened(ADDRESS, said.append) as place:
        bucket.refuse = lambda method, name: method == "POST" and ".lock" not in name
        write(place.folder, FIRST)
    assert any(line.startswith(f"not uploaded: {ADDRESS}") for line in said)
    bucket.refuse = lambda method, name: False
    assert seen() == FIRST


@pytest.mark.parametrize("fault", ["copy", "delete"])
def test_files_that_were_committed_and_not_moved_are_moved_with_the_next_commit(
    bucket, monkeypatch, fault
):
    real, said = getattr(Cloud, fault), []

    def fails(self, name, to=None):
        if name != ".lock":
            raise InputError("503")

    with opened(ADDRESS, said.append) as place:
        write(place.folder, FIRST)
        place.commit()
        until(
            lambda: "runs/some/a/b" in bucket.objects and "/.aside/" not in str([*bucket.objects])
        )
        monkeypatch.setattr(Cloud, fault, fails)
        write(place.folder, SECOND)
        place.commit()
        until(lambda: said)
        monkeypatch.setattr(Cloud, fault, real)
        third = SECOND | {"report.json": b"{}"}
        write(place.folder, third)
    assert said == ["not uploaded: 503; the next commit tries again"]
    own = {name.removeprefix("runs/some/"): data for name, data in bucket.objects.items()}
    del own[COMMIT]
    assert own == third


def test_a_folder_that_was_copied_there_is_resumed(bucket):
    for name, data in FIRST.items():
        bucket.put(f"runs/some/{name}", data)
    bucket.put("runs/some/.lock-of-another-kind", b"")
    bucket.put("runs/some-other/log.jsonl", b"not mine")
    assert seen() == FIRST
    assert bucket.objects["runs/some-other/log.jsonl"] == b"not mine"


def test_a_copy_is_fetched_once_and_again_if_it_has_changed(bucket):
    said = []
    with pytest.raises(InputError, match="nothing is there"):
        local(ADDRESS, said.append)
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, FIRST)
    folder = local(ADDRESS, said.append)
    assert folder.name == "some" and folder != own_folder(ADDRESS, "runs")
    assert contents(folder).keys() == {"log.jsonl", "stages.json", "a/b"}  # no checkpoints
    assert local(ADDRESS + "/", said.append) == folder
    assert len(said) == 1 and "fetching 3 files, 0.00 MB" in said[0]
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, SECOND)
    assert contents(local(ADDRESS, said.append)) == SECOND and len(said) == 2


def test_a_copy_is_whole_or_not_there(bucket):
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, SECOND)
    bucket.refuse = lambda method, name: method == "GET" and "weights" in str(name)
    with pytest.raises(InputError, match=r"gs://data/runs/some/model/weights: 403"):
        local(ADDRESS)
    assert not own_folder(ADDRESS, "copies").exists()
    bucket.refuse = lambda method, name: False
    assert contents(local(ADDRESS)) == SECOND


def test_a_single_file_is_fetched(bucket, tmp_path):
    bucket.put("texts/train.jsonl", b"one\n")
    said = []
    path = local("gs://data/texts/train.jsonl", said.append)
    assert path.name == "train.jsonl" and path.read_bytes() == b"one\n"
    assert local("gs://data/texts/train.jsonl", said.append) == path and len(said) == 1
    bucket.put("texts/train.jsonl", b"two\n")
    assert local("gs://data/texts/train.jsonl", said.append).read_bytes() == b"two\n"
    shutil.rmtree(path.parent)
    assert local("gs://data/texts/train.jsonl", said.append).read_bytes() == b"two\n"


def put_of_parts(bucket, name, data):
    """As the service puts an object together of parts: without an md5."""
    bucket.put(name, data)
    bucket._storage.objects["data"][name]["md5Hash"] = None


def test_what_was_put_together_of_parts_is_fetched_again_if_it_has_changed(bucket):
    single, folder, said = "gs://data/texts/train.jsonl", "gs://data/models/some", []
    for data in (b"one\n", b"two\n"):  # of one size
        put_of_parts(bucket, "texts/train.jsonl", data)
        put_of_parts(bucket, "models/some/weights", data)
        for _ in range(2):
            assert local(single, said.append).read_bytes() == data
            assert (local(folder, said.append) / "weights").read_bytes() == data
    assert len(said) == 4


def test_a_run_whose_files_were_put_together_of_parts_is_resumed(bucket, monkeypatch, tmp_path):
    for name, data in FIRST.items():
        put_of_parts(bucket, f"runs/some/{name}", data)
    with on_a_machine_that_is_lost(bucket) as place:  # before it has committed anything
        assert contents(place.folder) == FIRST
    fresh_machine(monkeypatch, tmp_path / "second")
    put_of_parts(bucket, "runs/some/log.jsonl", b"2\n")
    with pytest.raises(InputError, match=r"log\.jsonl: gone, or not what \.commit\.json says"):
        seen()
    put_of_parts(bucket, "runs/some/log.jsonl", FIRST["log.jsonl"])
    assert seen() == FIRST


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket):
    commit = {"id": "1", "files": {"../../x": [0, "0" * 32]}, "gone": []}
    bucket.put(f"runs/some/{COMMIT}", json.dumps(commit).encode())
    with pytest.raises(InputError, match="no file can have that name"):
        local(ADDRESS)


def test_a_damaged_commit_is_named(bucket):
    bucket.put(f"runs/some/{COMMIT}", json.dumps({"id": 1}).encode())
    with pytest.raises(InputError, match=r"\.commit\.json: damaged"):
        seen()


def test_no_such_bucket(bucket):
    with pytest.raises(InputError, match=r"gs://nowhere/x.*404"):
        local("gs://nowhere/x")


@contextmanager
def two_hosts():
    """Process 0's mirror and process 1's follower, and their folders."""
    own, other = (own_folder(ADDRESS, f"runs{of}") for of in ("", "-of-process-1"))
    with held(own, print), held(other, print), mirrored(ADDRESS, own, print, nothing) as mirror:
        follower = Follower(Cloud(ADDRESS), other, print)
        meet(mirror, follower)
        yield mirror, follower, own, other


def meet(mirror, follower):
    mirror.take(follower.give())
    follower.follow()


SHARD = {"00001.npy": b"hours of work"}


@pytest.mark.parametrize("stop", ["kill", "kill after a commit", "machines lost"])
def test_what_others_wrote_since_they_met_last_outlasts_a_stop(bucket, monkeypatch, tmp_path, stop):
    with suppress(Lost), two_hosts() as (mirror, follower, own, other):
        write(own, FIRST)
        meet(mirror, follower)
        write(other, FIRST | SHARD)
        if stop != "kill":
            write(own, SECOND)  # files that the other still has are gone from here
            mirror.flush()
        if stop == "machines lost":
            follower.offer()  # as it does once a minute
            follower.follow()
            assert contents(other) == SECOND | SHARD
        bucket.refuse = lambda method, name: True
        raise Lost
    bucket.refuse = lambda method, name: False
    if stop == "machines lost":
        fresh_machine(monkeypatch, tmp_path / "second")
    with two_hosts() as (_, _, own, other):
        assert contents(own) == contents(other) == (FIRST if stop == "kill" else SECOND) | SHARD
    assert seen() == contents(other)
    assert not [name for name in bucket.objects if "/.from/" in name]


def test_what_another_wrote_gives_way_where_others_went_on(bucket, monkeypatch, tmp_path):
    with suppress(Lost), two_hosts() as (mirror, follower, own, other):
        write(own, FIRST)
        meet(mirror, follower)
        write(other, FIRST | SHARD)
        bucket.refuse = lambda method, name: True
        raise Lost
    bucket.refuse = lambda method, name: False
    fresh_machine(monkeypatch, tmp_path / "second")
    with opened(ADDRESS, lambda _: None) as place:
        write(place.folder, SECOND)
    fresh_machine(monkeypatch, tmp_path / "first")
    with two_hosts() as (_, _, own, other):
        assert contents(own) == contents(other) == SECOND


def test_progress_commits_at_times(bucket, monkeypatch):
    from rocketjax.runtime import mirror
    from rocketjax.runtime.progress import unwatched

    commits = []
    monkeypatch.setattr(mirror, "EVERY", 0)
    monkeypatch.setattr(Mirror, "commit", lambda self: commits.append(1))
    monkeypatch.setattr(Mirror, "flush", lambda self: None)
    with (
        opened(ADDRESS, lambda _: None) as place,
        place.watched(unwatched)("encode", 3, "shards") as advance,
    ):
        advance(1)
        advance(2)
    assert len(commits) == 2


@pytest.mark.parametrize("network", ["back", "gone"])
def test_a_commit_whose_answer_is_lost_is_followed_by_others(
    bucket, monkeypatch, tmp_path, network
):
    """The service has it, and this machine only sees the network fail."""
    real, third = Cloud.write, SECOND | {"report.json": b"{}"}

    def fails(self, name, data, generation, stores=False):
        if name != COMMIT or stores:
            written = real(self, name, data, generation)
        if name == COMMIT:
            raise InputError("the network is down")
        return written

    folder = own_folder(ADDRESS, "runs")
    with (
        suppress(InputError) if network == "gone" else nullcontext(),
        held(folder, print),
        mirrored(ADDRESS, folder, print, nothing) as mirror,
    ):
        write(folder, FIRST)
        mirror.flush()
        monkeypatch.setattr(Cloud, "write", partialmethod(fails, stores=True))
        write(folder, SECOND)
        with pytest.raises(InputError, match="the network is down"):
            mirror.flush()
        write(folder, third)
        monkeypatch.setattr(Cloud, "write", real if network == "back" else fails)
    monkeypatch.setattr(Cloud, "write", real)
    if network == "back":
        fresh_machine(monkeypatch, tmp_path / "second")
    assert seen() == third
    own = {name.removeprefix("runs/some/"): data for name, data in bucket.objects.items()}
    assert own.pop(COMMIT) and own == third
