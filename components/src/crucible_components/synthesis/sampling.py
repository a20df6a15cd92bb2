"""Streams of distinct scenes, with held-out content that no training picture ever shows.

What a scene shows (backdrop, figures with shape, colour and size, digit, word; not where) is
hashed; one content in five belongs to held-out scenes. So evaluation asks about combinations that
training has not seen, in pictures that differ from each other in content or layout.
"""

from __future__ import annotations

import hashlib
import random

from crucible.errors import UserError
from crucible_components.synthesis.digits import digit_pool
from crucible_components.synthesis.scene import Scene, World, sample_panel, sample_scene

_HELD_OUT_ONE_IN = 5
_MAX_ATTEMPTS = 2000
_MAX_PANEL_FIGURES = 2


def is_held_out(scene: Scene) -> bool:
    """True for the fifth of all contents that training never shows."""
    digest = hashlib.sha256(repr(scene.content).encode()).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_OUT_ONE_IN == 0


class SceneSampler:
    """Draws scenes of one side of the split, none of them twice."""

    def __init__(self, world: World, rng: random.Random, *, held_out: bool = False) -> None:
        self.world = world
        self._rng = rng
        self._held_out = held_out
        self._digits = digit_pool(held_out=held_out)
        self._seen: set[tuple[object, ...]] = set()

    def scene(self) -> Scene:
        """A scene not drawn before.

        Raises:
            UserError: the world is too small to hold another one.
        """
        for _ in range(_MAX_ATTEMPTS):
            scene = sample_scene(self.world, self._digits, self._rng)
            if is_held_out(scene) == self._held_out and self._is_new(scene.signature):
                return scene
        raise self._exhausted()

    def panels(self) -> tuple[Scene, Scene]:
        """Two half-width scenes that were not drawn as a pair before. Raises as `scene` does."""
        limit = min(_MAX_PANEL_FIGURES, self.world.max_figures)
        for _ in range(_MAX_ATTEMPTS):
            left = sample_panel(self.world, limit, self._rng)
            right = sample_panel(self.world, limit, self._rng)
            if any(is_held_out(panel) != self._held_out for panel in (left, right)):
                continue
            if left.content != right.content and self._is_new((left.signature, right.signature)):
                return left, right
        raise self._exhausted()

    def _is_new(self, signature: tuple[object, ...]) -> bool:
        if signature in self._seen:
            return False
        self._seen.add(signature)
        return True

    def _exhausted(self) -> UserError:
        world = self.world
        return UserError(
            f"no new scene in {_MAX_ATTEMPTS} draws after {len(self._seen)} scenes of at most "
            f"{world.max_figures} objects, {len(world.colors)} colors, {len(world.shapes)} shapes. "
            "Ask for fewer scenes, or allow more objects, colors or shapes."
        )
