"""Kernels of the training step for CUDA; plain torch defines what they compute."""
