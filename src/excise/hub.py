"""Uploading a finished checkpoint to the hub."""

from __future__ import annotations

from pathlib import Path

from excise.errors import ModelError, StoreError
from excise.store import RunDirectory


def push(run: Path, repository: str, *, private: bool = False) -> str:
    """Upload RUN/model (card included) and the recipe to `repository`; returns its address.

    Raises StoreError for an unfinished run, ModelError where the hub does not take it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    directory = RunDirectory.open(run)
    if not directory.finished:
        raise StoreError(f"{run}: expected a finished run, found one that is not. Use excise resume {run}.")
    hub = HfApi()
    try:
        url = str(hub.create_repo(repository, private=private, exist_ok=True))
        hub.upload_folder(repo_id=repository, folder_path=directory.model, commit_message="Edited with Excise")
        for name in ("recipe.json", "recipe.safetensors"):
            hub.upload_file(path_or_fileobj=directory.path / name, path_in_repo=f"excise/{name}", repo_id=repository)
    except LocalTokenNotFoundError as error:
        raise ModelError(f"{repository}: expected a token, found none. Set HF_TOKEN or run `hf auth login`.") from error
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{repository}: the hub did not take the upload: {first}. Check its name and the token's rights."
        ) from error
    return url
