"""A synthetic stream of ratings, day by day: the stars that users give to films, and the films that they choose."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

USERS, FILMS, TASTES = 400, 150, 4


def days(count: int = 60, rows: int = 300) -> Iterator[dict[str, np.ndarray]]:
    """Yield a table a day: user, film, stars, and 1 for a film that the user chose.

    A user has a level and a taste. A film has a level, a taste and a popularity. Users choose films that suit their
    taste. They are numbered in the order in which they join.
    """
    draw = np.random.default_rng(0)
    level, quality = draw.normal(0, 0.4, USERS), draw.normal(0, 0.5, FILMS)
    wants, offers = draw.normal(0, 0.8, (USERS, TASTES)), draw.normal(0, 0.8, (FILMS, TASTES))
    suits = wants @ offers.T / TASTES**0.5
    known = np.log(draw.permutation(1.0 / np.arange(1, FILMS + 1)))
    for day in range(count):
        user = draw.integers(0, USERS * (day + 20) // (count + 20), rows)
        film = (known + 2.0 * suits[user] + draw.gumbel(size=(rows, FILMS))).argmax(1)
        stars = 3.5 + level[user] + quality[film] + suits[user, film] + draw.normal(0, 0.5, rows)
        yield {
            "user_id": user,
            "film_id": film + 1000,
            "stars": np.clip(np.rint(stars), 1, 5),
            "chosen": np.ones(rows),
        }
