"""What a graded notebook prints with: a stream that takes so much and no more.

The kernel makes it at its start (``--IPKernelApp.outstream_class``), before any code of a learner's runs.
"""

from ipykernel.iostream import OutStream

PRINTED = 2**20  # characters that one stream takes


class CappedStream(OutStream):
    """A kernel's stdout or stderr that refuses to print more than `PRINTED` characters in all."""

    printed = 0

    def write(self, string: str) -> int | None:  # type: ignore[override]
        """Print, or refuse.

        Raises
        ------
        OSError
            if it has been enough.
        """
        self.printed += len(string)
        if self.printed > PRINTED:
            raise OSError(f"more than {PRINTED} characters were printed")
        written: int | None = super().write(string)
        return written
