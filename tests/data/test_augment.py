"""Augmentation: what a sample becomes depends on the seed, the epoch and its id, and is what the papers say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastat.data import augment
from fastat.data.augment import cut_out


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class TestAugment:
    def test_depends_on_the_sample_not_on_the_batch(self):
        batch, ids = images(40, 3, 8, 8), torch.arange(100, 140)
        whole = augment(batch, ids, "crop-flip", seed=3, epoch=2)
        pieces = [augment(batch[i : i + 7], ids[i : i + 7], "crop-flip", 3, 2) for i in range(0, 40, 7)]
        assert whole.equal(torch.cat(pieces))
        order = torch.randperm(40)
        assert whole[order].equal(augment(batch[order], ids[order], "crop-flip", 3, 2))

    @pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 1}])
    def test_depends_on_seed_and_epoch(self, change):
        batch, ids = images(40, 3, 8, 8), torch.arange(40)
        key = {"seed": 3, "epoch": 0}
        assert not augment(batch, ids, "crop", **key).equal(augment(batch, ids, "crop", **{**key, **change}))

    @pytest.mark.parametrize("kind", ["crop", "crop-flip"])
    def test_every_image_is_a_crop_of_its_padded_self(self, kind):
        batch, ids = images(200, 2, 6, 5), torch.arange(200)
        padded = torch.nn.functional.pad(batch, (4, 4, 4, 4))
        seen = set()
        for image, wide in zip(augment(batch, ids, kind, 0, 0), padded, strict=True):
            found = [
                (top, left, mirrored)
                for top in range(9)
                for left in range(9)
                for mirrored in (False, True)
                if image.equal((wide.flip(2) if mirrored else wide)[:, top : top + 6, left : left + 5])
            ]
            assert found
            seen.update(found)
        assert {top for top, _, _ in seen} == set(range(9))
        assert {left for _, left, _ in seen} == set(range(9))
        if kind == "crop-flip":
            assert {mirrored for _, _, mirrored in seen} == {False, True}

    def test_half_of_the_images_are_mirrored(self):
        ramp = torch.arange(5, dtype=torch.uint8).expand(4000, 1, 1, 5) + 1
        out = augment(ramp, torch.arange(4000), "crop-flip", 0, 0).long()
        steps = out[:, 0, 0].diff(dim=1)
        mirrored = ((steps == -1).sum(1) > (steps == 1).sum(1)).sum()
        plain = ((steps == -1).sum(1) < (steps == 1).sum(1)).sum()
        assert abs(int(mirrored) / int(mirrored + plain) - 0.5) < 0.05

    def test_none_and_unknown(self):
        batch = images(2, 1, 4, 4)
        assert augment(batch, torch.arange(2), "none", 0, 0) is batch
        with pytest.raises(ValueError, match="got 'cutout'"):
            augment(batch, torch.arange(2), "cutout", 0, 0)

    def test_bits_stay_the_same(self):
        # resumed runs and reported numbers depend on them
        out = augment(images(64, 1, 8, 8), torch.arange(64), "crop-flip", seed=7, epoch=3).long()
        assert int((out.flatten() * torch.arange(1, out.numel() + 1)).sum() % 1_000_003) == 259640


class TestCutOut:
    @given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 15), st.integers(0, 2**40), st.integers(0, 500))
    def test_blackens_a_rectangle_around_a_pixel_and_nothing_else(self, height, width, side, seed, epoch):
        batch = torch.full((9, 2, height, width), 200, dtype=torch.uint8)
        out = cut_out(batch, torch.arange(9), side, seed, epoch)
        for image in out:
            assert image[0].equal(image[1])
            black = image[0] == 0
            assert set(image.unique().tolist()) <= {0, 200}
            rows, columns = (int(black.any(dim).sum()) for dim in (1, 0))
            assert int(black.sum()) == rows * columns  # a full rectangle
            if side:
                # the centre is a pixel: at least half of the square, as far as the image goes, is inside
                assert min(height, side - side // 2) <= rows <= side
                assert min(width, side - side // 2) <= columns <= side

    def test_every_centre_is_equally_likely(self):
        black = cut_out(torch.ones(48_000, 1, 4, 6), torch.arange(48_000), 1, 0, 0) == 0
        assert black.sum((1, 2, 3)).eq(1).all()
        counts = black.sum((0, 1)).flatten()
        assert float((counts - 2000).abs().max()) < 5 * 2000**0.5

    def test_depends_on_the_sample_not_on_the_batch(self):
        batch, ids = images(40, 3, 8, 8) | 1, torch.arange(100, 140)
        whole = cut_out(batch, ids, 4, seed=3, epoch=2)
        assert whole.equal(torch.cat([cut_out(batch[i : i + 7], ids[i : i + 7], 4, 3, 2) for i in range(0, 40, 7)]))
        order = torch.randperm(40)
        assert whole[order].equal(cut_out(batch[order], ids[order], 4, 3, 2))
        assert not whole.equal(cut_out(batch, ids, 4, seed=4, epoch=2))
        assert not whole.equal(cut_out(batch, ids, 4, seed=3, epoch=1))

    def test_is_not_tied_to_the_crop(self):
        ids = torch.arange(4000)
        # a ramp tells the crop's place, the black pixel the cutout's: both in one of nine columns, uncorrelated
        ramp = torch.arange(1, 10, dtype=torch.float32).expand(4000, 1, 1, 9)
        shift = augment(ramp, ids, "crop", 0, 0)[:, 0, 0, 4]
        place = (cut_out(torch.ones(4000, 1, 1, 9), ids, 1, 0, 0) == 0).float().argmax(3).flatten().float()
        assert abs(float(torch.corrcoef(torch.stack([shift, place]))[0, 1])) < 5 / 4000**0.5

    def test_none_and_negative(self):
        batch = images(2, 1, 4, 4)
        assert cut_out(batch, torch.arange(2), 0, 0, 0) is batch
        with pytest.raises(ValueError, match="cutout must be at least 0, got -1"):
            cut_out(batch, torch.arange(2), -1, 0, 0)
