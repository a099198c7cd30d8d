"""`--mode=serve`: a trained model on a local web server."""

import socket

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.api import BATCH, Model
from pneumojax.data.sources.unlabelled import look_at_array
from pneumojax.inference import bundle
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.runtime import run_log
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_text
from pneumojax.runtime.signals import deferred
from pneumojax.serving.serve_settings import is_loopback, limits
from pneumojax.workflows import model_card, trained_models

_KEEP_ALIVE = 5  # seconds between requests of one connection
_CONNECTIONS = 512


def serve(config: ConfigDict, folder: epath.Path, workdir: epath.Path) -> None:
    """Serve the model in a folder, until SIGINT or SIGTERM; then answer what was taken, and return.

    The file of the config's site lies in the workdir or in the folder.

    Raises:
      UserError: there is no model, the packages of the extra `serve` are missing, or the address cannot be listened on.
    """
    try:
        import uvicorn

        from pneumojax.serving.app import application
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'pneumojax[serve]'") from None
    from pneumojax.export.try_page import page  # it imports onnx

    host, port = config.serve.host, config.serve.port
    with _listening(host, port) as listener:
        trained = trained_models.load_here(config, folder, workdir)
        model = Model(trained, bundle.description_of(trained))
        _warm_up(model)
        app = application(model, page(trained, _card(folder, trained)), limits(config), loopback=is_loopback(host))
        settings = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            limit_concurrency=_CONNECTIONS,
        )
        place = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        if not is_loopback(host):
            run_log.console.print(f"Warning: anyone who reaches {place} can use it, and films travel unencrypted.")
        run_log.console.print(f"Serving {trained.name} at {place}: Ctrl-C stops it. Not a medical device.")
        with deferred():  # uvicorn stops at the signal, and then raises it once more
            uvicorn.Server(settings).run([listener])
    run_log.console.print("Stopped.")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error.strerror}): give another --config.serve.port, or 0"
        ) from None


def _warm_up(model: Model) -> None:
    """Compile what answers one film, and many."""
    seen = look_at_array(np.zeros((model.image_size, model.image_size), np.uint8), model.image_size)
    for count in (1, BATCH):
        model.rows([("", seen)] * count)


def _card(folder: epath.Path, trained: TrainedModel) -> str:
    """Return the model card that an exported folder has, or else that of a run."""
    from pneumojax.export import card

    if (folder / card.NAME).exists():
        return read_text(folder / card.NAME)
    facts = model_card.facts_of(folder, trained, parity={}, commands=[])
    return card.card(facts)
