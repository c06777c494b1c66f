"""The part of the ledger for imported models: their rows, and which of them rules get."""

from __future__ import annotations

from dicomnode.ledger import models
from dicomnode.ledger.access import Access
from dicomnode.ledger.values import ImportedModel, ModelId


class Models:
    """An operator imports and activates models here; the catalog reads which are active."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def active(self) -> dict[str, ImportedModel]:
        """Return, by name, the imported models that rules get instead of those that came with the node."""
        with self._access.reading() as connection:
            return models.active(connection)

    def before_active(self, name: str) -> ImportedModel | None:
        """Return the imported model to which a rollback of this name goes back. None: there is none."""
        with self._access.reading() as connection:
            return models.before_active(connection, name)

    def take_in(self, imported: ImportedModel, by: str) -> tuple[ModelId, bool]:
        """Record a model whose files are flushed and in their folder. False: the ledger knew it already."""
        with self._access.writing("import_model", by) as transaction:
            return models.take_in(transaction, imported)

    def activate(self, model: ModelId, by: str) -> bool:
        """Give rules this model under its name, from the next verdict on. False: they got it already."""
        with self._access.writing("activate_model", by) as transaction:
            return models.activate(transaction, model)

    def roll_back(self, name: str, by: str, *, to: ModelId | None) -> None:
        """Undo the last activation of a name. Raises InputError where ``to`` is not what that leads to."""
        with self._access.writing("roll_back_model", by) as transaction:
            models.roll_back(transaction, name, to=to)
