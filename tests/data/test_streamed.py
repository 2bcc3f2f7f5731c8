"""Images that are decoded as they are needed: the same whoever decodes them; and what both kinds of dataset share."""

import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms

from fastat.data import Augmentation, Streamed, channel_statistics, flip_labels, held_out, load
from fastat.data.streamed import _random_part

SIZES = [(260, 300), (300, 260), (256, 256), (500, 240), (230, 231), (40, 60), (257, 700)]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Streamed:
    """Noise that is smooth enough to survive JPEG, one grey image among it."""
    folder = tmp_path_factory.mktemp("streamed")
    files = []
    for number, size in enumerate(SIZES):
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        files.append(folder / f"{number}.jpg")
        (image.convert("L") if number == 2 else image).save(files[-1])
    return Streamed.of("photos", files, [0, 1, 2, 0, 1, 2, 0], ("a", "b", "c"))


def plain(source: Streamed, position: int) -> torch.Tensor:
    """The centre crop with Pillow and torchvision in this process."""
    image = transforms.pil_to_tensor(Image.open(source.files[position]).convert("RGB"))
    return transforms.center_crop(transforms.resize(image, [256], antialias=True), [224, 224])


class TestStreamed:
    def test_centre_crops_are_those_of_a_plain_decode(self, source):
        positions = torch.tensor([5, 0, 3, 2, 6, 1])
        found = list(source.batches(positions, 4))
        assert [len(batch.y) for batch in found] == [4, 2]
        x, y, ids = (torch.cat(parts) for parts in zip(*found, strict=True))
        assert x.dtype == torch.float32
        assert x.equal(torch.stack([plain(source, int(i)) for i in positions]).float() / 255)
        assert y.equal(source.labels[positions])
        assert ids.equal(positions)

    def test_load_has_the_same_images_in_memory(self, source):
        some = source.take(torch.tensor([6, 2, 4]))
        loaded = some.load()
        assert loaded.images.equal(torch.stack([plain(source, i) for i in (6, 2, 4)]))
        assert loaded.ids.tolist() == [6, 2, 4]
        assert (loaded.labels.tolist(), loaded.classes, loaded.title) == ([0, 2, 1], ("a", "b", "c"), "photos")
        assert loaded.image_shape == source.image_shape == (3, 224, 224)

    @pytest.mark.parametrize("kind", ["crop", "crop-flip"])
    def test_randomness_depends_on_the_sample_alone(self, source, monkeypatch, kind):
        changed = Augmentation(kind, cutout=60, seed=3, epoch=1)
        whole = next(source.batches(torch.arange(7), 7, changed)).x
        order = torch.tensor([4, 0, 6, 1, 5, 3, 2])
        for cores in (1, 2):
            monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
            pieces = torch.cat([batch.x for batch in source.take(order).batches(torch.arange(7), 2, changed)])
            assert pieces.equal(whole[order])
        for change in ({"seed": 4}, {"epoch": 2}):
            # without the cutout, which would differ alone
            whole = replace(changed, cutout=0)
            one, other = (next(source.batches(torch.arange(7), 7, replace(whole, **more))).x for more in ({}, change))
            assert all(not a.equal(b) for a, b in zip(one, other, strict=True))

    def test_crop_flip_mirrors_some_crops(self, source):
        many = source.take(torch.zeros(40, dtype=torch.int64))
        many = Streamed(many.title, many.files, many.labels, many.classes, torch.arange(40))
        kinds = Augmentation("crop"), Augmentation("crop-flip")
        crops, flips = (torch.cat([b.x for b in many.batches(torch.arange(40), 40, kind)]) for kind in kinds)
        mirrored = sum(bool(b.equal(a.flip(2))) for a, b in zip(crops, flips, strict=True))
        assert mirrored + sum(bool(b.equal(a)) for a, b in zip(crops, flips, strict=True)) == 40
        assert 8 <= mirrored <= 32  # 20 expected, standard deviation 3.2

    def test_leaves_the_global_generator_alone(self, source):
        before = torch.get_rng_state()
        next(source.batches(torch.arange(2), 2, Augmentation("crop")))
        assert torch.get_rng_state().equal(before)

    def test_workers_stop_when_the_iterator_is_dropped(self, source):
        batches = source.batches(torch.arange(7).repeat(20), 2)
        next(batches)
        workers = multiprocessing.active_children()
        assert workers
        del batches
        deadline = time.monotonic() + 20
        while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(worker.is_alive() for worker in workers)

    def test_unknown_augment_and_no_positions(self, source):
        with pytest.raises(ValueError, match="augment must be one of none, crop, crop-flip, got 'flip'"):
            next(source.batches(torch.arange(2), 2, Augmentation("flip")))
        assert list(source.batches(torch.arange(0), 2)) == []

    def test_broken_file_is_named(self, source, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"junk")
        with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as an image: cannot identify.*jpg'$"):
            Streamed.of("x", [tmp_path / "broken.jpg"], [0], ("a",)).load()

    def test_subset_is_that_of_a_dataset_in_memory(self, source):
        some = source.subset(3, seed=1)
        assert some.ids.equal(source.load().subset(3, seed=1).ids)
        assert some.files == tuple(source.files[i] for i in some.ids.tolist())
        assert source.subset(None, 0) is source
        with pytest.raises(ValueError, match="got size 0"):
            source.subset(0, 0)


@given(st.integers(1, 900), st.integers(1, 900), st.lists(st.floats(0, 1, exclude_max=True), min_size=41, max_size=41))
def test_a_random_part_lies_in_the_image(height, width, draws):
    top, left, tall, wide = _random_part(height, width, draws)
    assert 0 <= top <= top + tall <= height and 0 <= left <= left + wide <= width
    assert tall >= 1 and wide >= 1


def test_random_parts_have_the_areas_and_ratios_of_imagenet_training():
    generator = torch.Generator().manual_seed(0)
    parts = torch.tensor([_random_part(400, 400, torch.rand(41, generator=generator).tolist()) for _ in range(4000)])
    tall, wide = parts[:, 2].double(), parts[:, 3].double()
    area, ratio = tall * wide / 400**2, wide / tall
    assert 0.075 < float(area.min()) < 0.1 and float(area.max()) > 0.95
    assert 0.74 < float(ratio.min()) < 0.76 and 1.32 < float(ratio.max()) < 1.35
    assert abs(float(ratio.log().mean())) < 0.02  # log-uniform, so symmetric about 1
    assert abs(float((parts[:, 0] / (400 - tall).clamp(min=1)).mean()) - 0.5) < 0.03


class TestBothKinds:
    @pytest.fixture(params=["memory", "disk"])
    def dataset(self, request, source):
        return source if request.param == "disk" else source.load()

    def test_held_out_is_a_partition_in_order(self, dataset):
        rest, validation = held_out(dataset, 3)
        assert (len(rest), len(validation)) == (4, 3)
        for part in (rest, validation):
            assert part.ids.equal(part.ids.sort().values)
            assert part.labels.equal(dataset.labels[part.ids])
        assert torch.cat([rest.ids, validation.ids]).sort().values.equal(torch.arange(7))

    def test_held_out_follows_the_ids_not_the_order(self, dataset):
        _, validation = held_out(dataset, 3)
        _, reversed_ = held_out(dataset.take(torch.arange(6, -1, -1)), 3)
        assert reversed_.ids.flip(0).equal(validation.ids)

    def test_held_out_sizes(self, dataset):
        assert held_out(dataset, 0) == (dataset, None)
        for size in (-1, 7):
            with pytest.raises(ValueError, match=f"below the 7 training images, got {size}"):
                held_out(dataset, size)

    def test_flipped_labels_are_the_same(self, dataset, source):
        noisy = flip_labels(dataset, 0.5, seed=2)
        assert type(noisy) is type(dataset)
        assert int((noisy.labels != dataset.labels).sum()) == round(0.5 * 7)
        assert noisy.labels.equal(flip_labels(source, 0.5, seed=2).labels)


def test_statistics_of_streamed_images_are_the_published_ones(source):
    assert channel_statistics(source) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_held_out_digits_are_a_random_choice():
    train = load("digits").train
    _, validation = held_out(train, 400)
    share = validation.labels.bincount(minlength=10) / train.labels.bincount(minlength=10)
    assert float((share - 400 / len(train)).abs().max()) < 0.15
