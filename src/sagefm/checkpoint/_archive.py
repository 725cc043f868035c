"""A file of ``torch.save`` that may come from anybody: looked through before torch reads it.

``torch.load(weights_only=True)`` runs no code, but it believes sizes: a few hundred bytes can ask for all the memory
there is, or for a computation without an end. What it is given here is a zip archive of uncompressed members, whose
pickle is short and names tensors and numbers alone. Its storages stay in the file until they are asked for.
"""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of a file: ten published ones.
MAX_BYTES: Final = 1 << 32
#: Bytes of what is no storage: the pickle of the published file, which also holds the optimizer's state, has 11 kB.
_MAX_PICKLE_BYTES: Final = 1 << 18
#: Bytes of a zip archive's directory.
_MAX_DIRECTORY_BYTES: Final = 1 << 20
#: Bytes of the record at the end of an archive.
_END_BYTES: Final = 22
#: Items of a tuple with those of the tuples in it: those of torch have about 20.
_MAX_TUPLE: Final = 1000

_NUMBERS: Final = (
    "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
)  # fmt: skip
#: What the pickle may call, and what it may name beside that.
_CALLED: Final = {
    "collections OrderedDict",
    "collections Counter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
_NAMED: Final = {f"torch {number}Storage" for number in _NUMBERS}


class _BoundedFile(io.FileIO):
    """A file of which no more is read at once than a zip archive's directory may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or all that follow."""
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has more than {_MAX_DIRECTORY_BYTES:,} bytes")
        return super().read(size) or b""


def check_archive(path: Path) -> None:
    """Raise a ValueError unless torch can read a file within bounded time and memory, and without running its code."""
    n_bytes = path.stat().st_size
    if n_bytes > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            file.seek(-_END_BYTES, os.SEEK_END)
            if not file.read().startswith(b"PK\x05\x06"):
                raise zipfile.BadZipFile("something follows the archive")
            pickled = _read_pickle(archive, n_bytes)
        check_pickle(pickled)
    # What zipfile and pickletools raise, each by what is wrong with a file.
    except (zipfile.BadZipFile, OSError, LookupError, RuntimeError, OverflowError, EOFError) as error:
        raise ValueError(str(error)) from error


def _read_pickle(archive: zipfile.ZipFile, n_bytes: int) -> bytes:
    """Return the pickle of an archive of `n_bytes`, whose members are as torch writes them."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise zipfile.BadZipFile("its members are compressed or encrypted")
    # Members may lie over one another, and another program's archive may be in front of this one.
    is_whole = members and min(member.header_offset for member in members) == 0 and not archive.comment
    if not is_whole or sum(member.file_size for member in members) > n_bytes:
        raise zipfile.BadZipFile("its directory does not fit its members")
    if len({member.filename for member in members}) < len(members):
        raise zipfile.BadZipFile("two of its members have the same name")
    pickles = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise zipfile.BadZipFile(f"it has {len(pickles)} members data.pkl")
    large = [
        member.filename
        for member in members
        if member.filename.split("/")[1:-1] != ["data"] and member.file_size > _MAX_PICKLE_BYTES
    ]
    if large:
        raise zipfile.BadZipFile(f"{large[0]} has more than {_MAX_PICKLE_BYTES:,} bytes")
    return archive.read(pickles[0])


def check_pickle(pickled: bytes) -> None:
    """Raise a ValueError for a pickle that names more than tensors need, or whose tuples grow with each other.

    No object is made. Tuples are what can be a key of a dictionary, and the hash of a tuple is computed from all that
    is in it: 30 tuples, each of which holds the one before twice, take a thousand million steps.
    """
    # Of each object on the stack, the items of a tuple, or the name of what can be called; None marks a place.
    stack: list[int | str | None] = []
    memo: dict[int, int | str | None] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL":
            if argument not in _CALLED | _NAMED:
                raise ValueError(f"it needs GLOBAL {str(argument).replace(' ', '.')}")
            stack.append(str(argument))
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif opcode.name not in ("PROTO", "STOP"):
            _follow(opcode, stack)


def _follow(opcode: pickletools.OpcodeInfo, stack: list[int | str | None]) -> None:
    """Do to the stack what an instruction does."""
    taken: list[int | str] = []
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.stackslice:
            while (item := stack.pop()) is not None:
                taken.append(item)
        elif kind is not pickletools.markobject:
            if (item := stack.pop()) is None:
                raise ValueError("its instructions take what is not there")
            taken.append(item)
    if opcode.name in ("REDUCE", "NEWOBJ") and taken[-1] not in _CALLED:
        raise ValueError(f"it calls {taken[-1]}")
    n_items = 1
    if opcode.name.startswith("TUPLE"):
        n_items += sum(item for item in taken if isinstance(item, int))
        if n_items > _MAX_TUPLE:
            raise ValueError(f"it holds a tuple of more than {_MAX_TUPLE:,} items")
    stack += [None if kind is pickletools.markobject else n_items for kind in opcode.stack_after]
