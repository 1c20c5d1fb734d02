"""Environments seen through slots: Gymnasium single, Gymnasium vector, Stable-Baselines3."""
