"""Rows of table ``model``: imported models."""

from __future__ import annotations

from dicomnode.ledger.statements import AnyRow
from dicomnode.ledger.states import ModelState
from dicomnode.ledger.transaction import LedgerTransaction
from dicomnode.ledger.values import ImportedModel, ModelId
from dicomnode.ledger.views import ModelRow


def new_model(transaction: LedgerTransaction, imported: ImportedModel) -> dict[str, object]:
    """A model that no rule gets yet."""
    lowest, highest = imported.ratios
    return {
        "name": imported.name,
        "digest": imported.digest,
        "kind": imported.kind,
        "lowest_ratio": lowest,
        "highest_ratio": highest,
        **transaction.born(ModelState.IMPORTED, "import"),
        "imported_at": transaction.now,
    }


def imported_model(row: AnyRow) -> ImportedModel:
    """A model as rules get it."""
    return ImportedModel(
        id=ModelId(row.id),
        name=row.name,
        digest=row.digest,
        kind=row.kind,
        ratios=(row.lowest_ratio, row.highest_ratio),
    )


def model_row(row: AnyRow) -> ModelRow:
    """A model as an operator reads it."""
    return ModelRow(
        id=row.id,
        name=row.name,
        digest=row.digest,
        kind=row.kind,
        ratios=(row.lowest_ratio, row.highest_ratio),
        state=row.state,
        place=row.place,
        imported_at=row.imported_at,
    )
