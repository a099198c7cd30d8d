"""The rules of all fields of the config, which each part states for its own."""

from pneumojax.benchmark import plan
from pneumojax.pacs import pacs_settings
from pneumojax.serving import serve_settings
from pneumojax.workflows import run_config

FURTHER = (plan.rules, pacs_settings.rules, serve_settings.rules)  # of fields that training does not read
RULES = (*run_config.RULES, *FURTHER)
