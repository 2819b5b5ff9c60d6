"""The markers of a whole test file, and whether a marker expression leaves all of it out."""

from __future__ import annotations

import re

__all__ = ["leaves_out", "marks_of_file"]


def marks_of_file(text: str) -> set[str]:
    """The markers in the `pytestmark` of a file's text.

    >>> sorted(marks_of_file("import it\\n\\npytestmark = [pytest.mark.ray, pytest.mark.usefixtures('it')]\\n"))
    ['ray', 'usefixtures']
    """
    stated = re.search(r"^pytestmark = (.*?)(?=^\S|\Z)", text, re.M | re.S)
    return set(re.findall(r"pytest\.mark\.(\w+)", stated[1])) if stated else set()


def leaves_out(expression: str, text: str) -> bool:
    """Whether `-m EXPRESSION` says of markers only which are not wanted, and the whole file has one of those; or names
    one marker, and the file does not.

    >>> file = "pytestmark = pytest.mark.ray"
    >>> leaves_out("not slow and not ray", file), leaves_out("not slow", file), leaves_out("not slow or ray", file)
    (True, False, False)
    >>> leaves_out("ray", file), leaves_out("gpu", file)
    (False, True)
    """
    if re.fullmatch(r"\w+", expression):
        return f"pytest.mark.{expression}" not in text
    if re.fullmatch(r"not \w+( and not \w+)*", expression) is None:
        return False
    return not marks_of_file(text).isdisjoint(re.findall(r"not (\w+)", expression))
