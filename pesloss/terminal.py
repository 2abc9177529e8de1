"""Where a person reads: the terminal, without torch."""

from __future__ import annotations

from rich.console import Console

WIDTH = 120


def open_console(width: int = WIDTH) -> Console:
    """Standard output, as wide as the terminal; where there is none, so wide."""
    console = Console()
    return console if console.is_terminal else Console(width=width)


def clock(seconds: float) -> str:
    """A length of time as people read it.

    Example:
        >>> clock(400), clock(7325)
        ('6:40', '2:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
