"""GENESIS as a frozen encoder, as fast as it goes: lean network, CUDA kernels and graphs."""
