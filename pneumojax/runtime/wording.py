"""Words for numbers."""


def counted(count: int, thing: str) -> str:
    """Return "1 image", "2 images", "1,000 images": the count and the thing's singular or plural."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
