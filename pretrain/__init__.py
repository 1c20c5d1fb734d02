"""From images to a checkpoint: the training program, its presets and its data."""
