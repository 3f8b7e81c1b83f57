"""Uploads a model folder to the Hugging Face hub."""

from pathlib import Path

from rocketjax.runtime.errors import InputError


def push(folder: Path, name: str, private: bool) -> str:
    """Uploads a folder, as one commit, to a repository that is created if it does not exist.

    Args:
        folder: of a model.
        name: of the repository, "org/name".
        private: whether the repository must be private; otherwise it must be public.

    Returns:
        The repository's address.

    Raises:
        InputError: nobody is logged in, permission is missing, the connection fails, or an existing
            repository has the other visibility. Nothing is uploaded then.
    """
    from huggingface_hub import HfApi  # slow to import and seldom needed

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        is_private = bool(api.repo_info(name).private)
        if is_private != private:
            raise InputError(
                f"{name}: already exists and is {_visibility(is_private)}, not "
                f"{_visibility(private)}; change that on the hub, or choose another name"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by rocketjax")
    except InputError:
        raise
    except Exception as error:  # its own errors, its HTTP client's
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{name}: could not be uploaded ({reason}); log in with `hf auth login`. The folder is "
            f"written: `hf upload {name} {folder}` uploads it later"
        ) from error
    return f"https://huggingface.co/{name}"


def _visibility(private: bool) -> str:
    return "private" if private else "public"
