"""Definitions of functions that replace earlier ones, told by what has changed in them."""


def again(definition: str, *changes: tuple[str, str]) -> str:
    """Return a definition that replaces the function of its name, with what has changed in it.

    Errors: ValueError where the definition does not hold exactly once what is to be changed.
    """
    first = () if "CREATE OR REPLACE" in definition else (("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"),)
    for old, new in (*first, *changes):
        if definition.count(old) != 1:
            raise ValueError(f"{old!r} is not what the definition has once")
        definition = definition.replace(old, new)
    return definition


def everywhere(definition: str, *changes: tuple[str, str]) -> str:
    """Return a definition with each change made wherever it applies.

    Errors: ValueError where one applies nowhere.
    """
    for old, new in changes:
        if old not in definition:
            raise ValueError(f"{old!r} is nowhere in the definition")
        definition = definition.replace(old, new)
    return definition
