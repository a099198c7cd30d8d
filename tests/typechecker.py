"""The checker of types and array shapes in tests: see `--jaxtyping-packages` in pyproject.toml."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int counts as a float, as it does for pyright
