"""A dataset that knows nothing but what it is given."""

import torch

from pretrain.data.images import ImageBatch


class Plain:
    """A dataset whose image k is grey level k; it knows nothing but what it is given."""

    name, source, split, num_slots, image_size = "plain", "a test", "train", 3, 8

    def __init__(self, images, masks=None):
        self.images, self.masks = images, masks

    def __len__(self):
        return len(self.images)

    def batch(self, rows):
        return ImageBatch(self.images[rows], None if self.masks is None else self.masks[rows])


def greys(count):
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 8, 3).contiguous()
