"""Multi-dSprites: one to four coloured sprites on a coloured background, with masks.

The recipe is the one of the GENESIS paper (appendix A): the background and every sprite take a
colour from five levels per channel, the number of sprites is uniform over 1 to 4, each is uniform
over dSprites, and later sprites cover earlier ones. There are 50,000 / 10,000 / 10,000 images.
"""

from pathlib import Path

import torch
from torch import Tensor

from envs.base import usable_device
from envs.counter_rng import bits, fold, integers, without_repeats
from envs.scene import COLOUR_LEVELS, NUM_DSPRITES, SpriteScene, dsprites_scene
from envs.sprites_render import paint, render_sprites
from pretrain.data.dsprites_files import DspritesArray, ProcessedFiles
from pretrain.data.images import SPLITS, ImageBatch, ImageDataset, Indices, check_split

MAX_SPRITES = 4

_SIZES = {"train": 50_000, "val": 10_000, "test": 10_000}
_COLOURS = torch.cartesian_prod(*[torch.tensor(COLOUR_LEVELS, dtype=torch.uint8)] * 3)  # [125, 3]


class MultiDsprites(ImageDataset):
    """One split of coloured Multi-dSprites, made from nothing or read from the user's files.

    An image is a pure function of seed, split and index: it does not depend on the batch that it is
    asked for in, and CPU and CUDA agree to the last bit.

    Args:
        split: "train", "val" or "test".
        seed: Of the images; another seed is another dataset. Files on disk have their own.
        size: Number of images; the paper's unless given.
        image_size: Height and width.
        unique_colours: Redraws a sprite's colour until it differs from the background and from all
            earlier sprites, so that every sprite can be seen. The paper's default allows repeats.
        data_dir: Folder with genuine files, either the processed images and masks of the GENESIS
            release (`training_images_rand4.npy` and so on) or the array of dSprites
            (`dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`). Without it sprites are re-rendered.
        device: Where images are made.

    Example:
        >>> MultiDsprites("val").batch([0, 7]).images.shape
        torch.Size([2, 64, 64, 3])
    """

    name = "multi_dsprites"
    num_slots = MAX_SPRITES + 1

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        size: int | None = None,
        image_size: int = 64,
        unique_colours: bool = False,
        data_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
    ):
        check_split(split)
        if size is not None and size < 1:
            raise ValueError(f"size needs to be at least 1 image, but got {size}.")
        if image_size < 8:
            raise ValueError(f"image_size needs to be at least 8 pixels, but got {image_size}.")
        self.split, self.seed, self.image_size = split, seed, image_size
        self.unique_colours = unique_colours
        self.device = usable_device(device)
        self.size = _SIZES[split] if size is None else size
        self.source = "re-rendered"
        self._files: ProcessedFiles | None = None
        self._sprites: DspritesArray | None = None
        if data_dir is not None:
            self._open(Path(data_dir).expanduser(), size)
        self._key = fold(seed, SPLITS.index(split), self.device)
        self._colours = _COLOURS.to(self.device)
        highs = [len(_COLOURS), MAX_SPRITES] + [NUM_DSPRITES] * MAX_SPRITES
        taken = range(1, MAX_SPRITES + 1) if unique_colours else [0] * MAX_SPRITES
        highs += [len(_COLOURS) - k for k in taken]
        self._highs = torch.tensor(highs, device=self.device)

    def batch(self, indices: Indices) -> ImageBatch:
        rows = self.checked(indices)
        if self._files is not None:
            return self._files.batch(rows)
        index, present, colour, background = self._draw(rows)
        if self._sprites is None:
            scene = dsprites_scene(index, colour, background, present)
            return ImageBatch(*render_sprites(scene, self.image_size))
        shown = self._sprites.shapes(index) & present[..., None, None]  # [B, 4, 64, 64]
        order = torch.arange(1, MAX_SPRITES + 1, dtype=torch.uint8, device=self.device)
        masks = (shown * order[:, None, None]).amax(dim=1)  # painter's order: the last one wins
        return ImageBatch(paint(masks, colour, background), masks)

    def scenes(self, indices: Indices) -> SpriteScene:
        """The true factors of these images, unless they come from processed files."""
        if self._files is not None:
            raise ValueError("processed files hold no factors; leave data_dir out to have them.")
        index, present, colour, background = self._draw(self.checked(indices))
        return dsprites_scene(index, colour, background, present)

    def _draw(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sprites `[B, 4]`, which of them are there, their colours and the background's."""
        draws = integers(bits(fold(self._key, rows, self.device), len(self._highs)), self._highs)
        background, count, sprites, colours = draws.split([1, 1, MAX_SPRITES, MAX_SPRITES], dim=1)
        present = torch.arange(MAX_SPRITES, device=self.device) <= count
        palette = torch.cat([background, colours], dim=1)
        if self.unique_colours:
            palette = without_repeats(palette)
        rgb = self._colours[palette]  # [B, 5, 3]
        return sprites, present, rgb[:, 1:], rgb[:, 0]

    def _open(self, folder: Path, size: int | None) -> None:
        """Takes images or sprites from the user's files."""
        self._files = ProcessedFiles.find(folder, self.split, self.unique_colours)
        if self._files is None:
            self._sprites = DspritesArray.find(folder, self.device)
        if self._files is None and self._sprites is None:
            raise FileNotFoundError(
                f"multi_dsprites needs {DspritesArray.FILE} or "
                f"{ProcessedFiles.names(self.split, self.unique_colours)[0]} in {folder} (or its "
                "multi_dsprites/processed), but found neither; leave data_dir out to re-render."
            )
        if self.image_size != 64:
            raise ValueError(
                f"the files in {folder} hold 64 x 64 images, but image_size is {self.image_size}; "
                "leave data_dir out to re-render at that size."
            )
        if self._files is None:
            self.source = "genuine sprites"
            return
        self.source = "processed files"
        if size is not None and size > len(self._files):
            raise ValueError(
                f"{self._files.images_path} holds {len(self._files)} images, but size is {size}."
            )
        self.size = len(self._files) if size is None else size
