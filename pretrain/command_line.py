"""What command-line programs share: a mistake is one line, with a guess at what was meant."""

import argparse
import difflib
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints one line, without the usage of forty flags."""
        self.exit(2, f"error: {message}\n")


def suggest(word: str, known: list[str]) -> str:
    """Returns what to add to an error about an unknown word: the known one nearest, or all."""
    close = difflib.get_close_matches(word.split("=")[0], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
