"""What command-line programs share: a mistake is one line, with a guess at what was meant."""

import argparse
import difflib
import math
import os
from pathlib import Path
from typing import NoReturn

# What the user can mend; anything else, such as a full disk, is the machine's failure.
_MISTAKES = (
    ValueError,
    TypeError,
    ImportError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints one line, without the usage of forty flags."""
        self.exit(2, f"error: {message}\n")


def suggest(word: str, known: list[str]) -> str:
    """Returns what to add to an error about an unknown word: the known one nearest, or all."""
    close = difflib.get_close_matches(word.split("=")[0], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def is_mistake(error: BaseException) -> bool:
    """Whether an error is the user's to mend, and so exit status 2."""
    gymnasiums = type(error).__module__ == "gymnasium.error"  # no ValueErrors; not imported here
    return gymnasiums or isinstance(error, _MISTAKES)


def words(error: BaseException) -> str:
    """Returns what an error says, without the number of an operating system's."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def positive_int(text: str) -> int:
    """Parses an argument that counts something."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a whole number, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"needs a number above 0, got {text}")
    return number


def positive_number(text: str) -> float:
    """Parses an argument that measures something, such as seconds; finite, so that it ends."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a number, got {text!r}") from None
    if not 0 < number < math.inf:  # written so that NaN fails, too
        raise argparse.ArgumentTypeError(f"needs a finite number above 0, got {text}")
    return number


def output_folder(text: str) -> Path:
    """Parses a folder to write into: better refused now than after an hour of work.

    Nothing is made yet.
    """
    path = Path(text).expanduser()
    nearest = path.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(
            f"needs a folder to write into, but {nearest} is a file; choose another"
        )
    if not os.access(nearest, os.W_OK):
        raise argparse.ArgumentTypeError(
            f"needs a folder to write into, but {nearest} is not writable; choose another"
        )
    return path


def output_file(text: str) -> Path:
    """Parses a file to write, in a folder that exists or can be made."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"needs a file to write, but {path} is a folder")
    output_folder(str(path.parent))
    return path
