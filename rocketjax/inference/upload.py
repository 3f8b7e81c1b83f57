"""Uploads a model's folder to the Hugging Face hub."""

from pathlib import Path

from rocketjax.runtime.errors import InputError


def push(folder: Path, name: str, private: bool) -> str:
    """Makes the repository `name` where there is none, uploads the folder; returns its address.

    Raises:
        InputError: no login, no right to, or no connection; what was uploaded is whole or not
            there, as the hub takes one commit. Or the repository is there and as public or private
            as it was not asked to be: nothing is uploaded then.
    """
    from huggingface_hub import HfApi  # slow to import, and seldom needed

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        found, asked = (
            "private" if x else "public" for x in (api.repo_info(name).private, private)
        )
        if found != asked:
            raise InputError(
                f"{name}: is there already and is {found}, not {asked}; change that on the hub, or "
                "take another name"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by rocketjax")
    except InputError:
        raise
    except Exception as error:  # its own errors, those of its HTTP client
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{name}: could not be uploaded ({reason}); log in with `hf auth login`. {folder} is "
            f"written: `hf upload {name} {folder}` uploads it later"
        ) from error
    return f"https://huggingface.co/{name}"
