"""The zip archives PyTorch writes: opened, told apart and read with nothing but the standard library.

Three kinds occur (PyTorch source, caffe2/serialize/inline_container.h; torch/package):
`torch.save` writes NAME/data.pkl with storages NAME/data/KEY; torch.package writes NAME/.data/KEY.storage beside source
text and pickles; TorchScript writes NAME/constants.pkl and NAME/code/. Every entry carries a CRC-32, which is checked.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from allegro_sim.errors import CheckpointImportError

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SMALL, _LARGEST_EXPANSION = (
    2**26,
    50,
)  # PyTorch does not compress: a file that expands far more is not worth its memory
_OLD_TORCH_SIGNATURE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickled magic number of torch.save before 1.6


class Archive:
    """A zip archive with one top folder.

    Attributes: path; kind "saved" (torch.save), "package" (torch.package), "torchscript", "aotinductor" or "other";
    prefix, the top folder with its slash; big_endian, the byte order of the storages.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises CheckpointImportError for a file that is missing, no zip archive, or damaged."""
        self.path = path
        self._zip = _open_zip(path)
        self._entries = {info.filename: info for info in self._zip.infolist()}
        self.prefix, self.kind = self._classify()
        order = self.read("byteorder").decode("ascii", "replace").strip() if self.has("byteorder") else "little"
        if order not in ("little", "big"):
            raise self.damaged(f"unknown byte order {order!r}")
        self.big_endian = order == "big"

    def _classify(self) -> tuple[str, str]:
        for name in self._entries:
            if "/data/aotinductor/" in name or name.startswith("data/aotinductor/"):
                return name[: name.index("data/aotinductor/")], "aotinductor"
        marks = (
            ("constants.pkl", "torchscript"),
            (".data/version", "package"),
            ("data.pkl", "saved"),
        )
        tops = {name.split("/", 1)[0] + "/" for name in self._entries if "/" in name}
        for top in sorted(tops):
            for mark, kind in marks:
                if top + mark in self._entries:
                    return top, kind
        return (tops.pop() if len(tops) == 1 else ""), "other"

    def has(self, name: str) -> bool:
        """Whether the entry `name` (below the top folder) is there."""
        return self.prefix + name in self._entries

    def names(self) -> list[str]:
        """All entries below the top folder, as written in the file's directory."""
        return [name.removeprefix(self.prefix) for name in self._entries if name.startswith(self.prefix)]

    def read(self, name: str) -> bytes:
        """Content of an entry, its checksum verified. Raises CheckpointImportError if it is missing or damaged."""
        if not self.has(name):
            raise self.damaged(f"the entry {name} is missing")
        info = self._entries[self.prefix + name]
        if info.file_size > max(_SMALL, _LARGEST_EXPANSION * info.compress_size):
            raise self.damaged(f"the entry {name} claims to expand from {info.compress_size} to {info.file_size} bytes")
        try:
            return self._zip.read(info)
        except Exception as error:  # zipfile raises of many kinds for damaged entries
            raise self.damaged(f"the entry {name} cannot be read: {error}") from error

    def damaged(self, what: str) -> CheckpointImportError:
        """The error to raise when the file contradicts itself."""
        what = what.rstrip(" .")
        return CheckpointImportError(f"{self.path}: damaged checkpoint: {what}. Copy the file again from its source.")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        with open(path, "rb") as file:
            start = file.read(len(_OLD_TORCH_SIGNATURE))
        if start.startswith(b"PK\x03\x04"):
            return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise CheckpointImportError(f"{path}: no such file; give the path of a checkpoint") from None
    except OSError as error:
        raise CheckpointImportError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises of many kinds for damaged directories
        raise CheckpointImportError(
            f"{path}: truncated or damaged zip archive ({error}). Copy the file again from its source."
        ) from error
    if not start:
        what = "is empty"
    elif start.startswith(_HDF5_SIGNATURE):
        what = "is an HDF5 file; if it is an imported model, `allegro-tools info` shows it"
    elif start.startswith(_OLD_TORCH_SIGNATURE):
        what = "is a PyTorch file of the format before PyTorch 1.6, which no version of Allegro wrote"
    else:
        what = "is not a zip archive, so no Allegro model: every form of checkpoint is one"
    raise CheckpointImportError(f"{path}: {what}.")
