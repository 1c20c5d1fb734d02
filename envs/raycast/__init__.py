"""A batched ray caster for solids, in torch: ShapeStacks towers and GQN rooms (docs/envs.md)."""

from envs.raycast.renderer import Renderer, Rendering

__all__ = ["Renderer", "Rendering"]
