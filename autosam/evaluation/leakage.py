"""Find images to be scored that the checkpoint was trained on."""

from __future__ import annotations

from autosam.data.image_digests import find_seen
from autosam.data.pairs import Pair
from autosam.data.splits import RULE, depends_on_rule
from autosam.errors import DataError
from autosam.models.checkpoint import Loaded

HELD_OUT = ("validation", "test")


def require_same_rule(loaded: Loaded, pairs: list[Pair], split: str, own: bool, title: str) -> None:
    """Check that this version draws the splits as the version that trained the checkpoint did.

    Args:
        loaded: the checkpoint.
        pairs: the images to score.
        split: the split that they are, or "all".
        own: whether they are in the folders of the training data.
        title: name of the split, for the message.

    Raises:
        DataError: the splits differ, so training images would be scored.
    """
    if loaded.header.get("split_rule") == RULE or split not in HELD_OUT:
        return
    if depends_on_rule({split: pairs} if own else {}, loaded.config.data):
        raise DataError(
            f"{title}: the checkpoint was trained by a version of autosam that drew other splits "
            "with groups, strata or folds: images that it was trained on would be scored. Give "
            "other data as --data.images and --data.masks, or train again."
        )


def leakage_warning(loaded: Loaded, pairs: list[Pair], split: str, own: bool) -> str:
    """Look for images that the checkpoint was trained on among those to score.

    Args:
        loaded: the checkpoint. One of an earlier version does not record its images.
        pairs: the images to score.
        split: the split that they are, or "all".
        own: whether they are in the folders of the training data.

    Returns:
        A warning; "" if there are no such images, or if a training split is to be scored.

    Raises:
        DataError: the images are in the folders of the training data, and files were added or
            removed since, so the split is another.
    """
    if own and split not in HELD_OUT:
        return ""
    recorded = loaded.header.get("seen")
    if not isinstance(recorded, dict):
        return ""
    for earlier in ("train",) if own and split == "validation" else ("train", "validation"):
        use = "trained on" if earlier == "train" else "used to choose its best epoch"
        if own and (found := find_seen(pairs, recorded.get(earlier), by_name=True)):
            raise DataError(
                f"{len(found)} of the {len(pairs)} images of the {split} split ({found[0].name}, "
                f"...) were {use}: since the training, images were added to the folder, removed "
                "or renamed, so the splits differ. Restore the folder, give the new images as "
                "--data.images and --data.masks, or train again."
            )
        if found := find_seen(pairs, recorded.get(earlier), by_name=False):
            return (
                f"{len(found)} of {len(pairs)} images ({found[0].name}, ...) have the names, sizes "
                f"in bytes and last bytes of images that were {use}. If they are the same images, "
                "the scores do not show how well the run segments new ones"
            )
    return ""
