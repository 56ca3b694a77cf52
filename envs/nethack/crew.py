"""GameCrew: games of one process that think at the same time, on helper threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

try:
    from ._crew import Crew
except ImportError:  # the package was installed where there is no C compiler
    Crew = None


class GameCrew:
    """Games that press a key each at once: see ``rewardzoo.engines.Crew`` and ``_crew.c``.

    While helpers wait for engines, the caller judges games that have been played, and plays others
    itself. So no processor core waits for a slow game while another game could be played.

    Args:
        games: ``Game``s.
        helpers: threads beside the caller's.
    """

    def __init__(self, games: Sequence[Any], helpers: int) -> None:
        self.games = games
        self._crew: Any = Crew(len(games), helpers)

    def began(self, j: int) -> None:
        """See ``rewardzoo.engines.Crew``; NLE loads the engine anew for each game."""
        game = self.games[j]
        self._crew.bind(j, game.engine_path, game.own_questions, *game.addresses)

    def start(self, actions: Sequence[Any]) -> None:
        """See ``rewardzoo.engines.Crew``."""
        games = self.games
        self._crew.start(
            [None if a is None else game.key(a) for game, a in zip(games, actions, strict=True)]
        )

    def outcomes(
        self, meanwhile: Callable[[], None]
    ) -> Iterator[tuple[int, tuple[float, bool, bool]]]:
        """See ``rewardzoo.engines.Crew``."""
        games, take = self.games, self._crew.take
        count = len(games)
        while (j := take(meanwhile)) >= 0:
            if j < count:
                yield j, games[j].watched()
            else:
                yield j - count, games[j - count].judged()

    def spent(self) -> tuple[float, float, float]:
        """Seconds so far of helpers in engines, of the caller in engines, and of its waiting."""
        helped, played, waited = self._crew.spent()
        return helped, played, waited

    def close(self) -> None:
        """See ``rewardzoo.engines.Crew``."""
        self._crew.stop()
