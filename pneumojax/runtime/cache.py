"""The cache folder, which all runs of a user share: prepared shards and compiled programs."""

import contextlib
import os
import re
import stat
import tempfile
import time
import warnings

from etils import epath

from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import expanded, is_local

COMPILED = "compiled"
MAX_DAYS = 30  # that a compiled program is kept without being used
ENTRY = re.compile(r".+-[0-9a-f]{64}-(cache|atime)")  # how JAX names a program: by its function and a SHA-256


def folder(cache_dir: str) -> epath.Path:
    """Return `cache_dir`, or the user's cache folder where it is empty; of a user without a home, a temporary one.

    Raises:
      UserError: there is none that is this user's own.
    """
    if cache_dir:
        return expanded(cache_dir)
    users = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "pneumojax")
    users = os.path.expanduser(users)
    return _temporary() if users.startswith("~") else epath.Path(users)


def _temporary() -> epath.Path:
    path = os.path.join(tempfile.gettempdir(), f"pneumojax-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"no home folder is known, and others can write {path}: set HOME, or --config.data.cache_dir")
    return epath.Path(path)


def keep_compiled(cache_dir: str) -> None:
    """Let JAX keep compiled programs in the cache folder, and find them there.

    Nothing changes where JAX has another place already (JAX_COMPILATION_CACHE_DIR), or the folder cannot be written.
    JAX names an entry by the program, the devices and its own version. Where an entry cannot be read, since another
    process is writing it or was killed then, JAX compiles.
    """
    import jax  # not above: preparing needs the folder alone

    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    compiled = folder(cache_dir) / COMPILED
    if is_local(compiled):
        try:
            compiled.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if not os.access(compiled, os.R_OK | os.W_OK | os.X_OK):
            return
        remove_unused(compiled)
    else:
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # they need a local disk
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small programs add up to seconds
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")


def remove_unused(compiled: epath.Path) -> None:
    """Remove the compiled programs that were not used for `MAX_DAYS`; other files stay."""
    oldest = time.time() - MAX_DAYS * 86400
    for entry in os.scandir(compiled):
        with contextlib.suppress(OSError):  # another process was faster
            ours = ENTRY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if ours and max(entry.stat().st_atime, entry.stat().st_mtime) < oldest:
                os.remove(entry)
