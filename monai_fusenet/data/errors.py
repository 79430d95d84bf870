"""The reason of a failure in one line, as users see it in tables and logs."""

_MONAI_WRAPPER = "applying transform"


def failure_reason(error: BaseException) -> str:
    """Says in one line why an image failed.

    MONAI wraps what a transform raises into "applying transform <...>", once per nested `Compose`; the reason is the
    first error below these wrappers.

    Args:
        error: what was caught.

    Returns:
        The first line of the message, with control characters escaped, or the error's class when it brings no message.

    Example:
        >>> failure_reason(ValueError("first line\\nsecond line"))
        'first line'
        >>> failure_reason(KeyError())
        'KeyError'
    """
    while error.__cause__ is not None and str(error).startswith(_MONAI_WRAPPER):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0]) if lines else type(error).__name__


def printable(text: object) -> str:
    """Text in one line that shows what it holds: line breaks and other control characters as escapes.

    Example:
        >>> printable("a\\nb.png")
        'a\\\\nb.png'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))
