"""Google Cloud Storage: the objects below an address gs://BUCKET/PATH. The only importer of it.

An object appears whole or not at all, and has a new generation each time it is written. What a
file system has besides is missing: a rename, and a lock that ends with its process. mirror.py and
lease.py do without.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import cache_folder

AT_ONCE = 8  # objects that are read or written at the same time
CRC32C = "crc32c-"  # before a hash that is not md5
_ADDRESS = re.compile(r"gs:/+([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])((?:/[^/]+)+)/*")


def is_address(name: str | Path) -> bool:
    """Whether a name is not of this machine: gs://BUCKET/PATH.

    Raises:
        InputError: another service's address, or a bucket without a path.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]+):/", str(name))
    if not scheme:
        return False
    if scheme[1] != "gs":
        raise InputError(
            f"{name}: of addresses, rocketjax knows gs://BUCKET/PATH (Google Cloud Storage); copy "
            "it there or to a disk, or mount it"
        )
    _parts(name)
    return True


def _parts(name: str | Path) -> tuple[str, str]:
    """Bucket and path. pathlib makes gs:/ of gs://, which is meant all the same."""
    found = _ADDRESS.fullmatch(str(name))
    if not found:
        raise InputError(f"{name}: not an address; give gs://BUCKET/PATH")
    return found[1], found[2].strip("/")


def own_folder(name: str | Path, kind: str) -> Path:
    """Where this machine keeps what belongs to an address; below ROCKETJAX_CACHE.

    Args:
        kind: "runs", which are worked on, or "copies", which are read.
    """
    bucket, path = _parts(name)
    digest = hashlib.blake2b(f"{bucket}/{path}".encode(), digest_size=6).hexdigest()
    return cache_folder() / "gs" / kind / digest / path.rpartition("/")[2]


class Object(NamedTuple):
    """What a listing says of an object."""

    size: int
    md5: str  # of its bytes, in hexadecimal; where it was put together of parts, "crc32c-" and that
    generation: int


def md5_of(path: Path, size: int) -> str:
    """Of a file's first `size` bytes, in hexadecimal."""
    return _digest(hashlib.md5(usedforsecurity=False), path, size).hex()


def has_hash(path: Path, size: int, md5: str) -> bool:
    """Whether a file's first `size` bytes are those of an `Object.md5`."""
    if not md5.startswith(CRC32C):
        return md5_of(path, size) == md5
    import google_crc32c  # comes with Google's library

    return CRC32C + _digest(google_crc32c.Checksum(), path, size).hex() == md5


def _digest(digest: Any, path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 2**20))):
            digest.update(piece)
            size -= len(piece)
    return digest.digest()


class Cloud:
    """The objects below an address, by their paths from there. Safe to use from threads.

    Every method raises InputError where the service refuses, or cannot be reached for as long as
    its library tries again (two minutes).
    """

    def __init__(self, name: str | Path) -> None:
        """Raises InputError without the library or without credentials."""
        self._bucket_name, self.path = _parts(name)
        self.address = f"gs://{self._bucket_name}/{self.path}"
        _ = self._bucket

    @cached_property
    def _bucket(self) -> Any:
        try:
            from google.cloud import storage
        except ImportError as error:
            raise InputError(
                f"{self.address}: needs Google's library: pip install 'rocketjax[gcs]' (in a "
                "checkout: pip install -e '.[gcs]')"
            ) from error
        with self._asking():
            return storage.Client().bucket(self._bucket_name)

    def objects(self) -> dict[str, Object]:
        """All that is there; where an object has the address' own name, that one, as ""."""
        with self._asking():
            found = {"": self._bucket.get_blob(self.path)}
            if not found[""]:
                fields = "items(name,size,md5Hash,crc32c,generation),nextPageToken"
                blobs = self._bucket.list_blobs(prefix=f"{self.path}/", fields=fields)
                found = {blob.name[len(self.path) + 1 :]: blob for blob in blobs}
        # A name that ends in / stands for a folder, in the console's eyes.
        found = {name: blob for name, blob in found.items() if not name.endswith("/")}
        self.check_names(found)
        return {
            name: Object(blob.size, _hash(blob), blob.generation) for name, blob in found.items()
        }

    def check_names(self, names: Iterable[str]) -> None:
        """Raises InputError where a name would lead out of a folder here."""
        for name in names:
            if name and {"", ".", ".."} & {*name.split("/")}:
                raise InputError(f"{self.address}/{name}: no file can have that name; rename it")

    def get(self, name: str, path: Path) -> None:
        """Writes an object into a file; its bytes are checked on the way."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._asking(name):
            self._blob(name).download_to_filename(str(path), checksum="crc32c")

    def put(self, name: str, path: Path, size: int, md5: str) -> None:
        """Writes an object from a file's first `size` bytes, whose md5 is given."""
        with self._asking(name), path.open("rb") as file:
            blob = self._blob(name)
            blob.md5_hash = base64.b64encode(bytes.fromhex(md5)).decode()  # refused if it differs
            blob.upload_from_file(file, size=size, checksum="crc32c")

    def read(self, name: str) -> tuple[bytes, int] | None:
        """An object's bytes and its generation; None where there is none."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with self._asking(name):
            while blob := self._bucket.get_blob(self._full(name)):
                with suppress(NotFound, PreconditionFailed):  # written again since: look again
                    match = blob.generation
                    return blob.download_as_bytes(if_generation_match=match), match
            return None

    def write(self, name: str, data: bytes, generation: int) -> int | None:
        """Writes an object in place of that generation (0: where there is none).

        Returns:
            Its new generation, or None: another one is there.
        """
        from google.api_core.exceptions import PreconditionFailed

        with self._asking(name):
            blob = self._blob(name)
            try:
                blob.upload_from_string(data, if_generation_match=generation)
            except PreconditionFailed:
                # Tried again after an answer was lost, it fails for what it has written itself.
                there = self.read(name)
                return there[1] if there and there[0] == data else None
            return blob.generation

    def copy(self, name: str, to: str) -> None:
        """Copies an object within the service."""
        with self._asking(name):
            token, *_ = self._blob(to).rewrite(self._blob(name))
            while token:  # a large one, to another class of storage
                token, *_ = self._blob(to).rewrite(self._blob(name), token=token)

    def delete(self, name: str, generation: int | None = None) -> None:
        """Removes an object, if it is there; given a generation, only that one."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with self._asking(name), suppress(NotFound, PreconditionFailed):
            self._blob(name).delete(if_generation_match=generation)

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._full(name))

    def _full(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        import requests
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        failures = (GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption)
        place = f"{self.address}/{name}" if name else self.address
        try:
            yield
        except DefaultCredentialsError as error:
            raise InputError(
                f"{place}: no credentials; gcloud auth application-default login (in Colab: from "
                "google.colab import auth; auth.authenticate_user())"
            ) from error
        except (*failures, requests.RequestException, OSError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise InputError(f"{place}: {reason or type(error).__name__}") from error


@contextmanager
def at_once() -> Iterator[ThreadPoolExecutor]:
    """Threads for several objects; what has not begun is dropped if the block fails."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _hash(blob: Any) -> str:
    if blob.md5_hash:
        return base64.b64decode(blob.md5_hash).hex()
    return CRC32C + base64.b64decode(blob.crc32c or "").hex()
