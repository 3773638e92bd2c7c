"""Whisper models from a hub: safetensors and settings, never pickle.

What is known of a model (a pin here, else the hub's own list) is checked before, during and after the download: the
room on the disk, the size while bytes come, the hash of each whole file. A download that breaks off goes on where it
ended. The hub is huggingface.co or the mirror that HF_ENDPOINT names.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.base.cached_folder import LOCK_SECONDS, hash_file
from labsupport.base.errors import CheckpointError, FolderError, printable
from labsupport.base.paths import cache_dir, how_to_mend
from labsupport.checkpoints.safetensors_files import INDEX, find_weights, no_safetensors
from labsupport.checkpoints.settings import is_whole

if TYPE_CHECKING:
    import httpx

HUB_SECONDS = 10  # time limit for the hub's answer, and for each piece of a file
START_SECONDS, SLOWEST = 60, 50_000  # a file may take so many seconds, and one more for each so many bytes
LARGEST_LISTING = 16 << 20  # bytes
SPARE = 100 << 20  # bytes that stay free on the disk
ATTEMPTS = 3  # for each file, where the connection breaks
WEIGHTS, SETTINGS = "model.safetensors", ("*.json", "*.txt")


class TooLong(ValueError):
    """An answer goes on after its end."""


@dataclass(frozen=True)
class Pin:
    """A published model that is known beforehand: its commit on the hub, and its model.safetensors."""

    revision: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub, with what the hub says of it, as far as it does."""

    name: str
    size: int | None = None
    sha256: str | None = None  # of a large file
    blob: str | None = None  # git's hash of a small one


KNOWN = {
    f"openai/whisper-{name}": Pin(*pin)
    for name, pin in {
        "tiny": (
            "169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
            151_061_672,
            "7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
        ),
        "tiny.en": (
            "87c7102498dcde7456f24cfd30239ca606ed9063",
            151_060_136,
            "db59695928ded6043adaef491a53ef4e12da9611184d77c53baa691a60b958ad",
        ),
        "base": (
            "e37978b90ca9030d5170a5c07aadb050351a65bb",
            290_403_936,
            "07cadb9f25677c8d50df603e66a98fbd842cce45047139baeb16e6219a1e807b",
        ),
        "base.en": (
            "911407f4214e0e1d82085af863093ec0b66f9cd6",
            290_401_888,
            "d4dd5542fd6a1d35639e21384238f3bfe6c557c849d392b5905d33ee29e71db5",
        ),
        "small": (
            "973afd24965f72e36ca33b3055d56a652f456b4d",
            966_995_080,
            "1d7734884874f1a1513ed9aa760a4f8e97aaa02fd6d93a3a85d27b2ae9ca596b",
        ),
        "small.en": (
            "e8727524f962ee844a7319d92be39ac1bd25655a",
            966_992_008,
            "6014ac49b506df900f66f4aca6b0801eed7245594ace97bcaf73e0ae5b863066",
        ),
        "medium": (
            "abdf7c39ab9d0397620ccaea8974cc764cd0953e",
            3_055_544_304,
            "62f73550fa6db24b0c6f6c5962bd0dae80fa644e93cde9cd9c3792971b47fd28",
        ),
        "medium.en": (
            "2e98eb6279edf5095af0c8dedb36bdec0acd172b",
            3_055_540_208,
            "8f731340f569588236c21f794c33e83b7cc5a297511d2bdc30117ea969004311",
        ),
        "large-v2": (
            "ae4642769ce2ad8fc292556ccea8e901f1530655",
            6_173_370_152,
            "57a1ba2a82c093cabff2541409ae778c97145378b9ddfa722763cb1cb8f9020b",
        ),
        "large-v3": (
            "06f233fe06e710322aca913c1bc4249a0d71fce1",
            3_087_130_976,
            "a8e94b85976e5864ba3e9525c7e6c83b2a1eca42d4b797a0c7c24d778e40fd95",
        ),
        "large-v3-turbo": (
            "41f01f3fe87f28c78e2fbf8b568835947dd65ed9",
            1_617_824_864,
            "542566a422ae4f3fd23f1ba11add198fca01bbf82e66e6a2857b3f608b1eb9d1",
        ),
    }.items()
}


def download(hub_id: str, hint: str) -> Path:
    """The folder of a hub's model, downloaded where it is not yet here; without a hub an earlier one.

    Args:
        hint: what models there are besides, for errors.

    CheckpointError: the hub has no such model, only pickled weights, or it fails and nothing is stored.
    FolderError: there is no room for it.
    """
    import httpx

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", hub_id) or ".." in hub_id:
        raise CheckpointError(f"The hub has no model {hub_id!r}.", hint=hint)
    home = cache_dir() / "hub" / hub_id.replace("/", "--")
    pin = KNOWN.get(hub_id)
    if pin and (home / pin.revision).is_dir():
        return home / pin.revision
    try:
        if is_offline():
            raise ValueError("the offline mode is on (HF_HUB_OFFLINE is set).")
        with open_client() as client:
            revision, files = list_files(client, hub_id, pin, hint)
            if not (home / revision).is_dir():
                fetch_folder(client, hub_id, files, home / revision)
        return home / revision
    except (ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        return find_stored(hub_id, home, error, hint)


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def open_client() -> httpx.Client:
    """An HTTP client with the user's token for the hub, which it does not pass on to other hosts.

    ValueError: the certificates that SSL_CERT_FILE names, the token's file or the proxy cannot be used.
    """
    import httpx
    from huggingface_hub.utils import build_hf_headers

    try:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        return httpx.Client(headers=headers, timeout=HUB_SECONDS, follow_redirects=True, max_redirects=10)
    except (OSError, ImportError) as error:  # ImportError: a SOCKS proxy needs another package
        settings = "SSL_CERT_FILE, SSL_CERT_DIR, ALL_PROXY, HTTPS_PROXY and the token's file"
        raise ValueError(f"no connection can be made with the settings ({error}): look at {settings}.") from error


def find_stored(hub_id: str, home: Path, error: Exception, hint: str) -> Path:
    """An earlier download, ours or huggingface_hub's, for the hub failed with `error`; CheckpointError without one."""
    ours = [path for path in home.glob("*") if re.fullmatch("[0-9a-f]{40}", path.name) and path.is_dir()]
    if ours:
        return max(ours, key=lambda path: path.stat().st_mtime)
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True))
        find_weights(folder)
        return folder
    except (OSError, ValueError, CheckpointError):
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        what = f"The model hub did not give {hub_id}: {printable(reason)}"
        more = f"{hint} Or set HF_ENDPOINT to a mirror that you can reach."
        raise CheckpointError(what, where=f"{hub_id} from {endpoint()}", hint=more) from error


# --- the hub's list --------------------------------------------------------------------------------------------------


def list_files(client: httpx.Client, hub_id: str, pin: Pin | None, hint: str) -> tuple[str, list[RemoteFile]]:
    """The commit of a model and its files that are wanted; nothing but the list is fetched.

    CheckpointError: there is no such model, or only pickled weights. ValueError: the answer is no list, or another
    than the pin has it.
    """
    url = f"{endpoint()}/api/models/{hub_id}/revision/{pin.revision if pin else 'main'}"
    with client.stream("GET", url, params={"blobs": "true"}) as response:
        if response.status_code in (401, 404):
            raise CheckpointError(f"The hub has no model {hub_id!r}.", where=endpoint(), hint=hint)
        listing = read_listing(response)
    revision = pin.revision if pin else listing.get("sha")
    if not isinstance(revision, str) or not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError("its list of the model's files names no commit.")
    found = [to_file(entry) for entry in listing["siblings"]]
    if not any(file.name.endswith(".safetensors") for file in found):
        raise no_safetensors(hub_id, [file.name for file in found])
    return revision, [apply_pin(file, pin) for file in choose_files(found)]


def read_listing(response: httpx.Response) -> dict:
    """The JSON of the hub's answer; ValueError if it is something else."""
    check_answer(response, "the list of the model's files")
    data = b"".join(receive(response, LARGEST_LISTING, START_SECONDS, "its list of the model's files"))
    try:
        listing = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its list of the model's files is damaged: {error}.") from error
    if not isinstance(listing, dict) or not isinstance(listing.get("siblings"), list):
        raise ValueError("its answer is no list of a model's files.")
    return listing


def check_answer(response: httpx.Response, wanted: str) -> None:
    """ValueError where the hub answers with an error, or a page for people (a login, a proxy's)."""
    if response.status_code >= 400:
        gated = ", which may want its terms accepted, and a token in HF_TOKEN" * (response.status_code in (401, 403))
        raise ValueError(f"it answers HTTP {response.status_code} for {wanted}{gated}.")
    if "html" in response.headers.get("content-type", "").lower():
        raise ValueError(f"it answers with a web page instead of {wanted}; is there a login or a proxy before it?")


def to_file(entry: object) -> RemoteFile:
    """A file of the hub's list; ValueError if the entry is none."""
    if not isinstance(entry, dict) or not isinstance(entry.get("rfilename"), str):
        raise ValueError("its list of the model's files is damaged.")
    large = entry.get("lfs") or {}
    if not isinstance(large, dict):
        raise ValueError("its list of the model's files is damaged.")
    size, sha256, blob = entry.get("size"), large.get("sha256"), entry.get("blobId")
    return RemoteFile(
        entry["rfilename"],
        size if is_whole(size, 1 << 50) else None,
        sha256 if isinstance(sha256, str) else None,
        blob if isinstance(blob, str) and not large else None,
    )


def choose_files(files: list[RemoteFile]) -> list[RemoteFile]:
    """The settings, and the weights once: the largest models are there in float32 too, and in parts."""
    whole = any(file.name == WEIGHTS for file in files)
    patterns = (*SETTINGS, WEIGHTS if whole else "model-*.safetensors")
    plain = [file for file in files if re.fullmatch(r"\w[\w.-]*", file.name) and "fp32" not in file.name]
    chosen = [file for file in plain if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns)]
    return [file for file in chosen if not (whole and file.name == INDEX)]


def apply_pin(file: RemoteFile, pin: Pin | None) -> RemoteFile:
    """A file with what is known of it beforehand; ValueError if the hub says something else."""
    if pin is None or file.name != WEIGHTS:
        return file
    if file.size not in (None, pin.size) or file.sha256 not in (None, pin.sha256):
        raise ValueError(f"its {WEIGHTS} is not the published one: {file.size:,} bytes instead of {pin.size:,}.")
    return RemoteFile(WEIGHTS, pin.size, pin.sha256)


# --- files -----------------------------------------------------------------------------------------------------------


def fetch_folder(client: httpx.Client, hub_id: str, files: list[RemoteFile], folder: Path) -> None:
    """Fetches a model's files beside `folder`, and renames theirs to it when all are whole.

    FolderError: they cannot be stored, or another process is at it for too long. Else as `fetch`.
    """
    import filelock

    part = folder.with_name(f"{folder.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f"{folder.name}.lock"), timeout=LOCK_SECONDS):
            if folder.is_dir():
                return  # another process has fetched it meanwhile
            part.mkdir(exist_ok=True)
            missing = [file for file in files if not (part / file.name).is_file()]
            check_disk(part, missing)
            for file in missing:
                fetch(client, f"{endpoint()}/{hub_id}/resolve/{folder.name}/{file.name}", file, part)
            part.rename(folder)
    except OSError as error:
        hint = how_to_mend(error, "LAB_CACHE")
        raise FolderError(f"The model {hub_id} cannot be stored: {error}.", where=folder.parent, hint=hint) from error


def check_disk(part: Path, files: list[RemoteFile]) -> None:
    """FolderError unless the disk has room for what is missing of these files."""
    begun = sum(path.stat().st_size for path in part.glob("*.part"))
    needed = sum(file.size or 0 for file in files) - begun + SPARE
    free = shutil.disk_usage(part).free
    if free < needed:
        what = f"The model needs {needed / 1e9:.1f} GB; the disk has {free / 1e9:.1f} GB free."
        raise FolderError(what, where=part.parent, hint="Free some, or set LAB_CACHE to a folder on another disk.")


def fetch(client: httpx.Client, url: str, file: RemoteFile, folder: Path) -> None:
    """Fetches a file into the folder, goes on where an earlier attempt ended, and renames it when its hash is right.

    ValueError: the answer is not this file. httpx.HTTPError: the connection broke too often.
    """
    import httpx

    part = folder / f"{file.name}.part"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            append_rest(client, url, file, part)
            break
        except TooLong:
            part.unlink()  # who sends too much may have sent anything before
            raise
        except httpx.TransportError:
            if attempt == ATTEMPTS:
                raise
    check_hash(file, part)
    part.rename(folder / file.name)


def append_rest(client: httpx.Client, url: str, file: RemoteFile, part: Path) -> None:
    """Appends what is missing of a file, within its size and its time; httpx.ReadError where it ends too early."""
    import httpx
    from huggingface_hub.utils import tqdm

    begun = part.stat().st_size if part.exists() and file.size is not None else 0
    if begun == file.size:
        return
    begun = begun if begun < (file.size or 0) else 0
    with client.stream("GET", url, headers={"Range": f"bytes={begun}-"} if begun else {}) as response:
        check_answer(response, file.name)
        if not response.headers.get("content-range", "").startswith(f"bytes {begun}-"):
            begun = 0  # the hub sends it from its beginning
        size = expected_size(file, response, begun)
        bar = tqdm(total=size, initial=begun, unit="B", unit_scale=True, desc=file.name, leave=False)
        with bar, open(part, "ab" if begun else "wb") as target:
            for piece in receive(response, size - begun, START_SECONDS + size / SLOWEST, file.name):
                target.write(piece)
                bar.update(len(piece))
    if (found := part.stat().st_size) < size:
        raise httpx.ReadError(f"{file.name} ended after {found:,} of {size:,} bytes.")


def receive(response: httpx.Response, size: int, seconds: float, what: str) -> Iterator[bytes]:
    """The pieces of an answer; ValueError where they are more than `size` bytes, or come for longer than `seconds`."""
    end, received = time.monotonic() + seconds, 0
    for piece in response.iter_bytes():
        received += len(piece)
        if received > size:
            raise TooLong(f"{what} goes on after the {size:,} bytes that it may have.")
        if time.monotonic() > end:
            raise ValueError(f"{what} comes too slowly: {received:,} bytes in {seconds:.0f} s.")
        yield piece


def expected_size(file: RemoteFile, response: httpx.Response, begun: int) -> int:
    """The whole file's size: as listed, else as this answer has it; ValueError where the two contradict each other."""
    length = response.headers.get("content-length", "")
    announced = begun + int(length) if length.isdecimal() else None
    if file.size is None and announced is None:
        raise ValueError(f"it does not say how large {file.name} is.")
    if file.size is not None and announced not in (None, file.size):
        raise ValueError(f"{file.name} has {announced:,} bytes instead of {file.size:,}.")
    return file.size if file.size is not None else announced or 0


def check_hash(file: RemoteFile, part: Path) -> None:
    """Removes a whole file that has another hash than it should have; ValueError then."""
    expected = file.sha256 or file.blob
    if expected and expected != (hash_file(part) if file.sha256 else hash_blob(part)):
        part.unlink()
        raise ValueError(f"{file.name} has another hash than it should have; it was removed.")


def hash_blob(path: Path) -> str:
    """git's hash of a small file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
