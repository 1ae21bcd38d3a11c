"""What a case draws: sizes, and the decorator that lists it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers


@dataclass
class Draw:
    """Sizes of one case. `seed` 0 has sizes that suit everything."""

    rng: np.random.Generator

    def size(self, low: int = 2, high: int = 6) -> int:
        """A size from low to high."""
        return int(self.rng.integers(low, high + 1))

    def among(self, *choices: object) -> object:
        """One of them."""
        return choices[int(self.rng.integers(len(choices)))]


Make = Callable[[Draw], object]


@dataclass
class Family:
    """Cases by name."""

    cases: dict[str, Make] = field(default_factory=dict)

    def case(self, make: Make) -> Make:
        """Lists a function that makes a model."""
        self.cases[make.__name__] = make
        return make

    def one(self, name: str, make: Callable[[Draw], object], shape: Callable[[Draw], tuple[int | None, ...]]) -> None:
        """Lists a model of a single layer on an input of this shape."""

        def model(d: Draw) -> keras.Model:
            x = keras.Input(shape(d))
            return keras.Model(x, make(d)(x))

        self.cases[name] = model

    def many(self, shape: Callable[[Draw], tuple[int | None, ...]], **makes: Callable[[Draw], object]) -> None:
        """Lists several."""
        for name, make in makes.items():
            self.one(name, make, shape)


L = layers
