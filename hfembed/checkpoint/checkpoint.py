"""One value for "which model is meant": a name as the user said it, and the folder where its files lie."""

from dataclasses import dataclass
from pathlib import Path

from hfembed.hub.download import find_checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """A model's checkpoint, local or from the Hub.

    Attributes:
        name: What the user said: a folder, "owner/name" or "owner/name@revision".
        folder: Where its files lie: the folder itself, or the commit's snapshot in the Hub's cache.
        revision: The commit on the Hub; None for a local folder.
    """

    name: str
    folder: Path
    revision: str | None = None

    @classmethod
    def resolve(
        cls,
        name: "str | Path | Checkpoint",
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        subfolder: str = "",
        local_files_only: bool = False,
    ) -> "Checkpoint":
        """Find a checkpoint, and fetch it from the Hub where it is not a folder.

        Args:
            name: A folder, "owner/name", "owner/name@revision", or a checkpoint that is resolved already.
            revision: Branch, tag or commit; None means main.
            token: Instead of this machine's.
            cache_dir: Instead of the Hub's cache under HF_HOME.
            subfolder: Where in the repository or folder the model is.
            local_files_only: Do not contact the Hub.

        Raises:
            InputError: There is no such folder, repository or revision, or no right to read it.
            HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        """
        if isinstance(name, Checkpoint):
            return name
        folder = find_checkpoint(
            name,
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        is_local = Path(name).is_dir()
        commit = None if is_local else (folder.parent if subfolder else folder).name
        return cls(str(name), folder, commit)

    @property
    def is_local(self) -> bool:
        """Whether the checkpoint is a folder of the user's own, which may be written to."""
        return self.revision is None
