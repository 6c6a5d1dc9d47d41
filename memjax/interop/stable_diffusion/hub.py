"""Models on the Hugging Face hub: the safetensors and settings of one commit, into its cache."""

import re
from pathlib import Path

from memjax.interop.stable_diffusion.folder import INDEX, PARTS, STEMS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


_DIGITS = "[0-9]" * 5


def patterns(variant: str | None) -> list[str]:
    """Returns which files of a repository are fetched: settings, and weights of one variant."""
    names = [INDEX, "scheduler/*.json", "tokenizer/*.json", "tokenizer/*.txt"]
    return [*names, *(f"{part}/config.json" for part in PARTS), *weight_patterns(PARTS, variant)]


def weight_patterns(parts: tuple[str, ...], variant: str | None) -> list[str]:
    """Returns the patterns of the weights files of some parts, those of other variants left out."""
    found = []
    for part in parts:
        stem = f"{part}/{STEMS[part]}"
        if variant is None:
            found += [f"{stem}.safetensors", f"{stem}-{_DIGITS}-of-{_DIGITS}.safetensors"]
            found.append(f"{stem}.safetensors.index.json")
        else:
            found += [f"{stem}.{variant}.safetensors", f"{stem}.{variant}-*.safetensors"]
            found += [f"{stem}-*.{variant}.safetensors"]
            found.append(f"{stem}.safetensors.index.{variant}.json")
    return found


def fetch(hub_id: str, variant: str | None, revision: str | None) -> tuple[Path, str]:
    """Fetches what is not in the cache yet.

    Parts that have no files of the variant are fetched plain, from the same commit.

    Returns:
        The folder, and the commit it is of.

    Raises:
        ValueError: One sentence for: no such repository or revision, a gated one, no network, one
            that is no diffusers pipeline or has no safetensors.
    """
    folder = _snapshot(hub_id, revision, patterns(variant))
    lacking = tuple(part for part in PARTS if not _has_weights(folder, part, variant))
    if lacking and variant:
        folder = _snapshot(hub_id, folder.name, weight_patterns(lacking, None))
        lacking = tuple(part for part in lacking if not _has_weights(folder, part, None))
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"The model {hub_id} has no {INDEX}, so it is no pipeline in the layout of diffusers; "
            "if it holds a single .safetensors file, fetch that and give its path."
        )
    if lacking:
        raise ValueError(
            f"The model {hub_id} has no safetensors of {' and '.join(lacking)} under their plain "
            "name; try --variant=fp16, or convert its pickled weights with diffusers."
        )
    return folder, folder.name


def _has_weights(folder: Path, part: str, variant: str | None) -> bool:
    home, stem, mark = folder / part, STEMS[part], f".{variant}" if variant else ""
    names = (f"{stem}{mark}.safetensors", f"{stem}.safetensors.index{mark}.json")
    return any((home / name).exists() for name in names)


def _snapshot(hub_id: str, revision: str | None, allowed: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    at = f" at revision {revision!r}" if revision else ""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=allowed))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"The model {hub_id} is gated; accept its terms on huggingface.co/{hub_id}, then log "
            "in with hf auth login."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"There is neither a folder {hub_id} here nor a model of that name on the hub (a "
            "private one asks for hf auth login); check the name."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"The model {hub_id} has no revision {revision!r}; give a branch, a tag or a commit of "
            "its repository."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ValueError(
            f"There is no folder {hub_id} here, and the model of that name{at} is not in the cache "
            "of the hub, which cannot be reached; connect to the network once, unset "
            "HF_HUB_OFFLINE if it is set, or give a folder."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"The model {hub_id}{at} could not be fetched from the hub ({said}); try again, or "
            "give a folder."
        ) from error
