"""The last lines of an endless stream, in bounded memory."""

TAIL_BYTES_MAX = 16 << 10


class Tail:
    """Keeps at most ``TAIL_BYTES_MAX`` of what is added."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, chunk: bytes) -> None:
        """The stream goes on."""
        self._bytes = (self._bytes + chunk)[-TAIL_BYTES_MAX:]

    def lines(self, count: int) -> tuple[str, ...]:
        """The last lines that are not blank, at most ``count``; what is not UTF-8 or not printable is replaced."""
        text = self._bytes.decode(errors="replace")
        printable = ["".join(c if c.isprintable() or c == "\t" else "?" for c in line) for line in text.splitlines()]
        return tuple([line.rstrip() for line in printable if line.strip()][-count:])
