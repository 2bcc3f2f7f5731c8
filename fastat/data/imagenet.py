"""ImageNet and Tiny ImageNet from the unpacked files of their authors."""

from __future__ import annotations

from pathlib import Path

from fastat.data.folder import class_folders, in_memory, labelled_files
from fastat.data.image_cache import read_images_once
from fastat.data.image_files import image_files
from fastat.data.splits import Split
from fastat.data.streamed import Streamed


def load_imagenet(root: Path) -> Split:
    """The 1.28 million training and 50,000 validation images of ``root/imagenet/{train,val}/<wnid>/*.JPEG``.

    They stay on the disk; see :class:`Streamed`. The validation images are the test split, as usual.

    Raises:
        FileNotFoundError: a folder is missing; the message says what to put where.
    """
    folder = root / "imagenet"
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise FileNotFoundError(
            f"ImageNet: unpack ILSVRC2012_img_train.tar to {folder}/train/<wnid>/ and ILSVRC2012_img_val.tar to "
            f"{folder}/val/<wnid>/, a folder for each class"
        )
    classes = class_folders(folder / "train")
    halves = [labelled_files(folder / half, classes) for half in ("train", "val")]
    return Split(*(Streamed.of("ImageNet", files, labels, classes) for files, labels in halves))


def load_tiny_imagenet(root: Path) -> Split:
    """The 100,000 training and 10,000 validation images of 64x64 from ``root/tiny-imagenet-200``, in memory.

    The labels of the authors' test images are not public: the validation images are the test split, as usual.

    Raises:
        FileNotFoundError: a file is missing; the message says what to put where.
        ValueError: val_annotations.txt names a class that has no training images, or a file is no image of 64x64.
    """
    folder = root / "tiny-imagenet-200"
    notes = folder / "val" / "val_annotations.txt"
    if not (folder / "train").is_dir() or not notes.exists():
        raise FileNotFoundError(f"Tiny ImageNet: unpack tiny-imagenet-200.zip to {folder} ({notes} is missing)")
    wnids = class_folders(folder / "train")
    places = [folder / "train" / wnid / "images" for wnid in wnids]
    train = [(file, label) for label, place in enumerate(places) for file in image_files(place)]
    test = []
    for line in _lines(notes):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in wnids:
            raise ValueError(
                f"{notes}: {name!r:.60} is of class {wnid!r:.60}, which has no folder in {folder / 'train'}"
            )
        if Path(name).name != name:
            raise ValueError(f"{notes}: {name!r:.60} is not the name of a file in {folder / 'val' / 'images'}")
        test.append((folder / "val" / "images" / name, wnids.index(wnid)))
    classes = _class_names(folder / "words.txt", wnids)
    images = read_images_once(folder, [file for file, _ in train + test], "RGB", (64, 64))
    return in_memory("Tiny ImageNet", images, [[label for _, label in half] for half in (train, test)], classes)


def _class_names(words: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """The first word for each WordNet id, or the id itself."""
    lines = _lines(words) if words.exists() else []
    known = {wnid: text.split(",")[0] for wnid, text in (line.split("\t", 1) for line in lines if "\t" in line)}
    return tuple(known.get(wnid, wnid) for wnid in wnids)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text in UTF-8: {error}") from error
