"""Google Cloud Storage on this machine: an emulator, with the preconditions that it leaves out."""

import importlib.util
import os
from contextlib import contextmanager
from http import HTTPStatus

import pytest

needs_emulator = pytest.mark.skipif(
    not importlib.util.find_spec("gcp_storage_emulator"),
    reason="the extra `gcs-test` brings google-cloud-storage and an emulator",
)


class Bucket:
    """The emulator's bucket "data", as it is."""

    def __init__(self, storage):
        self._storage = storage
        self.refuse = lambda method, name: False  # which requests fail, for good

    @property
    def objects(self):
        """The bytes of every object."""
        names = self._storage.objects.get("data", {})
        return {name: bytes(self._storage.get_file("data", name)) for name in sorted(names)}

    def remove(self, name):
        self._storage.delete_file("data", name)

    def put(self, name, data):
        from google.cloud import storage

        storage.Client().bucket("data").blob(name).upload_from_string(data)


@contextmanager
def emulator():
    """A running emulator, which google-cloud-storage is pointed to, in child processes too."""
    from gcp_storage_emulator import server

    running = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="data")
    bucket = Bucket(running._storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "HANDLERS", tuple(_guarded(bucket, *row) for row in server.HANDLERS))
        running.start()
        port = running._api._httpd.server_port
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield bucket
        running.stop()


def _guarded(bucket, pattern, handlers):
    return pattern, {method: _checked(bucket, method, work) for method, work in handlers.items()}


def _checked(bucket, method, work):
    def handle(request, response, storage, *args, **kwargs):
        name = request.params.get("object_id") if request.params else None
        if method == "POST" and "uploadType" in request.query:
            name = request.query.get("name", [None])[0]
            if name is None and isinstance(request.data, dict):
                name = (request.data.get("meta") or request.data)["name"]
        if bucket.refuse(method, name):
            response.status = HTTPStatus.FORBIDDEN
            return None
        wanted = request.query.get("ifGenerationMatch")
        if wanted:
            there = storage.objects.get("data", {}).get(name)
            if int(wanted[0]) != (int(there["generation"]) if there else 0):
                response.status = HTTPStatus.PRECONDITION_FAILED
                return None
        return work(request, response, storage, *args, **kwargs)

    return handle


def fresh_machine(patch, folder):
    """From now on, this is another machine: its cache is empty."""
    patch.setenv("ROCKETJAX_CACHE", os.fspath(folder))
