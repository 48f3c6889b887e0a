"""Columns and indexes that are the same on every database."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


def _exact(parameters: Any, connection: BaseDatabaseWrapper) -> Any:
    """MySQL's default collations ignore case, and not every character set of it can hold every character."""
    return {**parameters, "collation": "utf8mb4_bin"} if connection.vendor == "mysql" else parameters


class ExactCharField(models.CharField):  # type: ignore[type-arg]
    """Text that is compared character by character on every database."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _exact(super().db_parameters(connection), connection)


class ExactTextField(models.TextField):  # type: ignore[type-arg]
    """Text of any length, kept as it is on every database."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _exact(super().db_parameters(connection), connection)


class SparseIndex(models.Index):
    """An index on one column that is mostly null, without the nulls where the database can leave them out.

    The condition is no attribute: Django would warn of it on MariaDB and MySQL, and make no index at all.
    """

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        if not schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, using, **kwargs)
        is_set = models.Q(**{f"{self.fields[0]}__isnull": False})
        partial = models.Index(fields=self.partial_fields(), name=self.name, condition=is_set)
        return partial.create_sql(model, schema_editor, using, **kwargs)

    def partial_fields(self) -> list[str]:
        """What is indexed of the rows where the column is set."""
        return list(self.fields)


class SparseKeyIndex(SparseIndex):
    """The same, for those who look the few rows up by their primary keys, and ask for few or many of them."""

    def partial_fields(self) -> list[str]:
        return ["id"]
