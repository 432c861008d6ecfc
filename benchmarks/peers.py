"""Other loaders, and plain ways of reading, as contestants: what users have today.

Each `prepare_*` imports its library and returns the load. All leave every tensor usable by the
caller, in private memory unless `mmap` is in the name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import mmap
import os
import threading
from collections.abc import Callable, Iterator

import torch

from comfy.loading.commands.contestants import Contestant, finished, touch
from comfy.loading.commands.one_run import Job, Outcome
from comfy.loading.encodings import ENCODINGS

_HERE = "benchmarks.peers"
_PIECE_BYTES = 16 * 1024 * 1024
_BLOCK_BYTES = 4096
_RWF_DONTCACHE = 0x80
_CPU = torch.device("cpu")

_MODULES = {"fastsafetensors": "fastsafetensors", "runai-model-streamer": "runai_model_streamer"}


def missing() -> list[str]:
    """Names of peers that are not installed (see benchmarks/requirements.txt)."""
    return [name for name, module in _MODULES.items() if importlib.util.find_spec(module) is None]


def safetensors_peers() -> list[Contestant]:
    """Contestants for safetensors files, sharded or not."""
    found = []
    if "fastsafetensors" not in missing():
        for direct in (True, False):
            way = "O_DIRECT" if direct else "buffered"
            found.append(
                Contestant(
                    f"fastsafetensors, {way}",
                    "peer",
                    f"{_HERE}:prepare_fastsafetensors",
                    {"direct": direct},
                )
            )
    if "runai-model-streamer" not in missing():
        found.append(Contestant("runai-model-streamer", "peer", f"{_HERE}:prepare_runai", {}))
    return found


def plain_readers() -> list[Contestant]:
    """What a few lines of Python reach, without anything but reading."""
    kinds = [
        ("readinto, buffered", {"way": "buffered", "threads": 1}),
        ("readinto, drop behind", {"way": "fadvise", "threads": 1}),
        ("preadv, RWF_DONTCACHE", {"way": "dontcache", "threads": 1}),
        ("O_DIRECT, 1 thread", {"way": "direct", "threads": 1}),
        ("O_DIRECT, 4 threads", {"way": "direct", "threads": 4}),
    ]
    return [
        Contestant(f"plain {name}", "peer", f"{_HERE}:prepare_plain", arguments)
        for name, arguments in kinds
    ]


def pickle_peers() -> list[Contestant]:
    """Contestants for ``.pt`` files."""
    return [
        Contestant(
            f"torch.load(mmap={maps})",
            "peer",
            f"{_HERE}:prepare_torch_load",
            {"maps": maps},
            is_private=not maps,
            maps=maps,
        )
        for maps in (True, False)
    ]


# -- in the measuring process ------------------------------------------------------------------


def prepare_fastsafetensors(job: Job) -> Callable[[], Outcome]:
    """Version 0.5 without GPUDirect; its whole-file images stay alive with the tensors."""
    os.environ["FASTSAFETENSORS_ODIRECT"] = "1" if job.arguments["direct"] else "0"
    library = importlib.import_module("fastsafetensors")

    def act() -> Outcome:
        loader = library.SafeTensorsFileLoader(None, "cpu", nogds=True)
        loader.add_filenames({0: list(job.files)})
        images = loader.copy_files_to_device()
        state = {name: images.get_tensor(name) for name in loader.get_keys()}
        outcome = finished(state, _CPU, {})
        loader.close()
        return Outcome((state, images), outcome.nbytes, digest=outcome.digest)

    return act


def prepare_runai(job: Job) -> Callable[[], Outcome]:
    """Version 0.17, its defaults; every tensor is the caller's own."""
    os.environ.setdefault("RUNAI_STREAMER_LOG_LEVEL", "WARNING")
    library = importlib.import_module("runai_model_streamer")

    def act() -> Outcome:
        with library.SafetensorsStreamer() as streamer:
            streamer.stream_files(list(job.files), device="cpu")
            state = dict(streamer.get_tensors())
        return finished(state, _CPU, {})

    return act


def prepare_torch_load(job: Job) -> Callable[[], Outcome]:
    """What ``torch.load`` does; arguments: ``maps``."""
    maps = job.arguments["maps"]

    def act() -> Outcome:
        state = torch.load(job.path, map_location="cpu", weights_only=True, mmap=maps)
        if maps:
            touch(state.values())
        return finished(state, _CPU, {})

    return act


def prepare_plain(job: Job) -> Callable[[], Outcome]:
    """Read each file into one fresh block of memory; arguments: ``way``, ``threads``."""
    way, threads = job.arguments["way"], job.arguments["threads"]

    def act() -> Outcome:
        state: dict[str, torch.Tensor] = {}
        for path in job.files:
            state.update(_views(_image(path, way, threads)))
        return finished(state, _CPU, {})

    return act


def _image(path: str, way: str, threads: int) -> memoryview:
    direct = os.O_DIRECT if way == "direct" else 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | direct)
    try:
        size = os.fstat(fd).st_size
        length = -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        block = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        image = memoryview(block)
        offsets = iter(range(0, size, _PIECE_BYTES))
        lock = threading.Lock()
        flags = _RWF_DONTCACHE if way == "dontcache" else 0

        def read() -> None:
            while True:
                with lock:
                    offset = next(offsets, None)
                if offset is None:
                    return
                _read_piece(fd, image[offset : offset + _PIECE_BYTES], offset, size, flags)
                if way == "fadvise":
                    os.posix_fadvise(fd, offset, _PIECE_BYTES, os.POSIX_FADV_DONTNEED)

        workers = [threading.Thread(target=read) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return image[:size]
    finally:
        os.close(fd)


def _read_piece(fd: int, piece: memoryview, offset: int, size: int, flags: int) -> None:
    wanted = min(len(piece), size - offset)
    done = 0
    while done < wanted:
        count = os.preadv(fd, [piece[done:]], offset + done, flags)
        if not count:
            raise EOFError(f"the file ends at byte {offset + done:,}")
        done += count


def _views(image: memoryview) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a whole safetensors file in memory."""
    length = int.from_bytes(image[:8], "little")
    header = json.loads(bytes(image[8 : 8 + length]))
    header.pop("__metadata__", None)
    data = torch.frombuffer(image, dtype=torch.uint8)[8 + length :]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = ENCODINGS[entry["dtype"]].torch_dtype
        raw = data[begin:end]
        with contextlib.suppress(RuntimeError):
            yield name, raw.view(dtype).view(entry["shape"])
            continue
        # The file has it at an address that its dtype cannot be read from.
        yield name, raw.clone().view(dtype).view(entry["shape"])
