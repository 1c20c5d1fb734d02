"""Environments made of scenes: sprites on a plane, drawn as images, masks or factors."""
