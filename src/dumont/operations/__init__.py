"""Operations as the API shows them: list, wait, follow live, cancel."""

from dumont.operations.api import OperationNotFound, read_operation, router
from dumont.operations.documents import operation_document

__all__ = ["OperationNotFound", "operation_document", "read_operation", "router"]
