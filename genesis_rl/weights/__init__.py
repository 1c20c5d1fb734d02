"""Shipped checkpoints, one folder an id: `multi_dsprites`."""
