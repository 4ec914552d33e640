"""A model folder is sent to the hub, through its own client; nothing but the files of a model leaves the machine."""

from __future__ import annotations

import fnmatch
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from leyden import __version__
from leyden.settings.errors import ConfigError, UploadError

log = logging.getLogger(__name__)

OF_MODELS = (
    "README.md", "config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.index.json",
    "*.gguf", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "*.jinja", "*.py",
)  # fmt: skip
OF_THE_HUB = ".gitattributes"  # which it makes in every repository
WHY = {
    401: "the hub does not know the token. Log in again with `hf auth login`, or set HF_TOKEN to one that is valid",
    402: "the hub asks for a payment, as it does where the storage of an account is full. Free some, or take another "
    "owner",
    403: "the token may not write there. Take one with the right to write, and an owner that you belong to",
    404: "the hub has no such owner or repository, or does not show it to this token. Check the name",
    409: "the repository was changed by someone else meanwhile. Look at it, then send again",
    412: "the repository was changed by someone else meanwhile. Look at it, then send again",
    413: "the hub refuses files of this size. Free storage there, or send a smaller model",
    429: "the hub has had too many requests from you. Wait, then send again",
}

REFUSED = "the hub does not take what was sent. Mend what it names, then send again"  # any other fault of the sender


class Sent(NamedTuple):
    """Where a folder has gone.

    Attributes:
        address: of the repository, for a browser.
        commit: that holds it.
    """

    address: str
    commit: str


def check_files(folder: Path) -> None:
    """Refuse a folder with files that are no part of a model, such as tables or logs that were put there by hand.

    Raises:
        ConfigError: with their names.
    """
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    odd = [
        str(path.relative_to(folder))
        for path in files
        if path.is_symlink() or path.parent != folder or not any(fnmatch.fnmatch(path.name, one) for one in OF_MODELS)
    ]
    if odd:
        raise ConfigError(
            f"{folder} is not sent: it holds {', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''}, "  # noqa: PLR2004
            "no part of a model. Move them elsewhere, or export into a new folder with output."
        )


def send(folder: Path, repository: str, *, public: bool, overwrite: bool) -> Sent:
    """Make the repository where it is not there, and put the folder into it with one commit.

    The token is the one that the client finds: in `HF_TOKEN`, or of `hf auth login`.

    Args:
        folder: with the files of a model alone.
        repository: `name` or `owner/name`.
        public: whether everyone may read it; one that is there must be as is asked for.
        overwrite: replace what a repository holds, which is refused otherwise.

    Raises:
        ConfigError: the folder holds something else; nothing was sent.
        UploadError: the hub or the network refuses.
    """
    check_files(folder)
    from huggingface_hub import HfApi

    api = HfApi(library_name="leyden", library_version=__version__)
    with _told(repository, folder, public=public):
        address = api.create_repo(repository, private=not public, exist_ok=True)
        there = api.model_info(address.repo_id)
        held = sorted(file.rfilename for file in there.siblings or () if file.rfilename != OF_THE_HUB)
        if bool(there.private) is public:
            said, cure = ("private", "leave public out") if there.private else ("public", "set public=true")
            raise UploadError(
                f"to=hub:{repository}: the repository is there already, and is {said}. Nothing was sent. Change that "
                f"on the hub, {cure}, or take another name."
            )
        if held and not overwrite:
            raise UploadError(
                f"to=hub:{repository}: the repository is there already and holds {', '.join(held[:3])}"
                f"{' and more' if len(held) > 3 else ''}. "  # noqa: PLR2004
                "Nothing was sent. Take another name, or set overwrite=true to replace all of it."
            )
        commit = api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            commit_message=f"Send a model that was trained with Leyden {__version__}",
            delete_patterns="*" if held else None,
        )
    return Sent(f"{api.endpoint}/{address.repo_id}", commit.oid)


@contextmanager
def _told(repository: str, folder: Path, *, public: bool) -> Iterator[None]:
    """Errors of the client and of the network in one sentence."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    again = f"{shlex.join(['hf', 'upload', repository, str(folder), '.'])}{'' if public else ' --private'}"
    kept = f"The folder {folder} is kept; `{again}` sends it."
    said = f"to=hub:{repository}"
    try:
        yield
    except UploadError:
        raise
    except Exception as error:
        causes = list(_causes(error))
        answer = next((one for one in causes if isinstance(one, HfHubHTTPError)), None)
        if answer is not None:
            status = answer.response.status_code
            why = WHY.get(status, REFUSED if status < 500 else "the hub has a fault of its own. Send again later")  # noqa: PLR2004
            more = f" ({' '.join(answer.server_message.split())[:200]})" if answer.server_message else ""
            raise UploadError(f"{said}: {why}. It answered {status}{more}. {kept}") from error
        if any(isinstance(one, OfflineModeIsEnabled) for one in causes):
            raise UploadError(f"{said}: HF_HUB_OFFLINE is set, so nothing is sent. Unset it. {kept}") from error
        if any(isinstance(one, httpx2.HTTPError | OSError) for one in causes):
            why = str(causes[-1]).strip() or type(causes[-1]).__name__
            raise UploadError(f"{said}: the hub cannot be reached ({why}). Check the network. {kept}") from error
        if isinstance(error, ValueError | RuntimeError):  # what the client says of answers that it does not understand
            why = " ".join(f"{error} {causes[-1] if len(causes) > 1 else ''}".split()).rstrip(".")
            raise UploadError(f"{said}: the client of the hub gives up: {why}. {kept}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what has led to it; the client wraps those of its threads."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
