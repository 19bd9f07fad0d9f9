"""Saved scorers: `<root>/dense_network/<name>/` with `config.json`, `model.safetensors`, a report.

There are two roots: SCORERS_DIR, and the scorers that ship with Baton, which it may hide. A scorer
is written beside its place and put there whole, so that no reader meets half of one. What the
weights mean, `worker.scoring.weights` knows.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from common.errors import ScorerError, ScorerNotFoundError
from common.model_entries import BUNDLED_DIR
from common.scorers import DENSE_NETWORK, check_name, not_found
from worker.scoring.config import ScorerConfig, read_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BUNDLED_SCORERS = BUNDLED_DIR.parent / "scorers"
MAX_WEIGHTS_BYTES = 1 << 30

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class ScorerFiles:
    """The scorers of one machine.

    Args:
        root: SCORERS_DIR; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The names of all scorers, sorted; whether they can be used is not looked at.

        Raises:
            ScorerError: The folder cannot be read.
        """
        found = set()
        with _legible("SCORERS_DIR"):
            for root in (self.root, BUNDLED_SCORERS):
                folder = root / DENSE_NETWORK
                for path in folder.iterdir() if folder.is_dir() else ():
                    if _is_name(path.name) and (path / CONFIG).exists():
                        found.add(path.name)
        return sorted(found)

    def find(self, name: str) -> Path:
        """The folder of a scorer.

        Raises:
            ScorerNotFoundError: There is none.
            ScorerError: It cannot be read, or lies behind a symbolic link that leads out.
        """
        with _legible("its folder"):
            for root in (self.root, BUNDLED_SCORERS):
                path = root / DENSE_NETWORK / check_name(name)
                if (path / CONFIG).exists():
                    _refuse_outside(root, path)
                    return path
        raise not_found(name)

    def stamp(self, name: str) -> tuple[int, ...]:
        """Differs once a scorer has been replaced.

        Raises:
            ScorerNotFoundError: There is no such scorer.
            ScorerError: It cannot be read.
        """
        with told(name):
            path = self.find(name)
            with _legible("one of its files"):
                found = [(path / file).stat() for file in (CONFIG, WEIGHTS)]
        return tuple(n for each in found for n in (each.st_ino, each.st_mtime_ns, each.st_size))

    def config(self, name: str) -> ScorerConfig:
        """Read what a scorer's config says.

        Raises:
            ScorerNotFoundError: There is no such scorer.
            ScorerError: It cannot be read; the message says why in one line.
        """
        with told(name):
            return read_config(_read(self.find(name) / CONFIG))

    def read(self, name: str) -> tuple[ScorerConfig, bytes]:
        """Read a scorer: its config, and the weights that belong to it.

        Raises:
            ScorerNotFoundError: There is no such scorer.
            ScorerError: It cannot be read, or its files do not belong together; the message says
                why in one line.
        """
        with told(name):
            path = self.find(name)
            for _ in range(2):  # it may have been replaced between the two files
                config, weights = read_config(_read(path / CONFIG)), _read(path / WEIGHTS)
                if hashlib.sha256(weights).hexdigest() == config.weights_sha256:
                    return config, weights
            raise ScorerError(
                f"{WEIGHTS} is not what config.json was written with; it may be cut off"
            )

    def save(
        self, name: str, config: ScorerConfig, weights: bytes, others: Mapping[str, bytes]
    ) -> Path:
        """Save a scorer, in the place of an earlier one of the same name.

        Args:
            name: Its name.
            config: `weights_sha256` is filled in here.
            weights: As safetensors.
            others: More files to lie with it, by name.

        Returns:
            The folder.

        Raises:
            ValueError: The name cannot be one.
            ScorerError: The place lies outside of the root.
            OSError: It cannot be written.
        """
        path = self.root / DENSE_NETWORK / check_name(name)
        signed = config.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
        text = signed.model_dump_json(indent=2) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_outside(self.root, path)
        try:
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
                new = Path(folder) / "new"
                new.mkdir()
                for file, content in {**others, WEIGHTS: weights, CONFIG: text.encode()}.items():
                    _write(new / file, content)
                _put(new, path)
        except OSError as error:  # a full disk names no file, and else it is one beside the place
            raise OSError(error.errno, error.strerror, str(path)) from error
        return path


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except ValueError:
        return False
    return True


def _refuse_outside(root: Path, path: Path) -> None:
    """A scorer's folder and its files lie below the root, whatever links there are."""
    inside = root.resolve()
    for each in (path, path / CONFIG, path / WEIGHTS):
        if not each.resolve().is_relative_to(inside):
            raise ScorerError("it is a symbolic link that leads out of SCORERS_DIR")


@contextmanager
def told(name: str) -> Iterator[None]:
    """What goes wrong with a scorer's files inside says which scorer it was."""
    try:
        yield
    except ScorerNotFoundError:
        raise
    except ScorerError as error:
        raise ScorerError(
            f"Scorer '{DENSE_NETWORK}/{name}' cannot be used: {error.message}"
        ) from error


def _read(path: Path) -> bytes:
    with _legible(path.name), open(path, "rb", opener=_open_at_once) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ScorerError(f"{path.name} cannot be read: it is no file")
        if found.st_size > MAX_WEIGHTS_BYTES:
            raise ScorerError(f"{path.name} is larger than {MAX_WEIGHTS_BYTES >> 30} GiB")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """A pipe is opened without waiting for one who writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def _legible(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ScorerError(f"{what} cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put(new: Path, path: Path) -> None:
    """Put a folder into its place, in one step where the system can."""
    if not path.exists():
        new.rename(path)
    elif not _exchanged(new, path):
        # For a moment there is none: a reader is told "not found", and never reads half of one.
        path.rename(new.with_name("old"))
        new.rename(path)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))
