"""Operations as the API shows them: list, wait, follow live, cancel."""

from dumont.operations.api import OperationNotFound, read_operation, router
from dumont.operations.documents import OperationDocument, operation_document
from dumont.operations.workflows import clean

__all__ = ["OperationDocument", "OperationNotFound", "clean", "operation_document", "read_operation", "router"]
