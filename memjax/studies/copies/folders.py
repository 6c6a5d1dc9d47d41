"""The folders of images that are compared: what each holds, and what is left out of it."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from memjax.data import storage
from memjax.data.file_tree import file_tree, size_of
from memjax.data.images import SUFFIXES

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
_CONTACT_SHEET, _PROMPTS = "grid.png", "prompts.jsonl"  # of `memjax sample`


class ImageFolder(NamedTuple):
    """One folder of images.

    Attributes:
        flag: What the folder is: ``generated``, ``training`` or ``held_out``.
        root: Where it lies, a folder or ``gs://…``.
        places: Its images' paths below ``root``, sorted by name.
        sizes: Bytes of each.
        unread: Files below it that are no images, or hidden.
        wrong: Files and links below it that cannot be read, or images of a kind that is not, and
            why.
    """

    flag: str
    root: str
    places: tuple[str, ...]
    sizes: tuple[int, ...]
    unread: tuple[str, ...]
    wrong: dict[str, str]

    @property
    def name(self) -> str:
        """The folder's own name."""
        root = self.root if storage.is_url(self.root) else os.path.abspath(self.root)
        return root.rstrip("/").rsplit("/", 1)[-1]

    def path(self, number: int) -> str:
        """Returns the address of an image."""
        return f"{self.root}/{self.places[number]}"


def image_folder(flag: str, root: str | os.PathLike[str]) -> ImageFolder:
    """Lists the images below a folder as every reader of folders does.

    Raises:
        ValueError: If it is missing, is a file, or holds no image.
    """
    base = storage.root_text(root)
    if not storage.is_url(base) and not os.path.isdir(base):
        kind = "is a file" if os.path.exists(base) else "does not exist"
        packed = os.path.exists(base) and base.lower().endswith(_ARCHIVES)
        todo = "unpack it and give the folder" if packed else "check the path"
        raise ValueError(
            f"--{flag}={base} {kind}, expected a folder of images ({', '.join(SUFFIXES)}): {todo}."
        )
    tree = file_tree(base)
    sheet = {_CONTACT_SHEET} if _PROMPTS in tree.others else set()
    places = tuple(place for place in tree.images if place not in sheet)
    unread = (*sheet.intersection(tree.images), *tree.others, *tree.passed)
    if not places:
        rest = [*tree.wrong, *unread]
        other = f" ({len(rest)} of other kinds, such as {rest[0]})" if rest else ""
        raise ValueError(
            f"--{flag}={base} holds no image that is read{other}, expected files that end in "
            f"{', '.join(SUFFIXES)}: give another folder, unpack archives, or convert to PNG."
        )
    sizes = tuple(size_of(f"{base}/{place}") for place in places)
    return ImageFolder(flag, base, places, sizes, unread, tree.wrong)


def check_apart(folders: Sequence[tuple[str, str | os.PathLike[str]]]) -> None:
    """Refuses folders that are the same, or one inside the other: images would count twice.

    Args:
        folders: Flag and folder of each.

    Raises:
        ValueError: Naming both.
    """
    real = [(flag, str(root), _real(storage.root_text(root))) for flag, root in folders]
    for i, (flag, root, place) in enumerate(real):
        for other_flag, other_root, other in real[:i]:
            if place == other:
                raise ValueError(
                    f"--{other_flag}={other_root} and --{flag}={root} are the same folder, "
                    "expected different ones: every image would be found in itself."
                )
            if f"{place}/".startswith(f"{other}/") or f"{other}/".startswith(f"{place}/"):
                inner = (flag, root) if len(place) > len(other) else (other_flag, other_root)
                outer = (other_flag, other_root) if inner[0] == flag else (flag, root)
                raise ValueError(
                    f"--{inner[0]}={inner[1]} lies inside --{outer[0]}={outer[1]}, expected "
                    "folders beside each other: its images would count on both sides."
                )


def _real(root: str) -> str:
    return root if storage.is_url(root) else os.path.realpath(root)
