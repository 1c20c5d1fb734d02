"""Flags of a training run: one for every field of `Config`, on top of a preset or a file.

Imports neither torch nor numpy, so that `--help` is instant.
"""

import argparse
import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pretrain.command_line import Parser, suggest
from pretrain.config import Config, ConfigError, build, find_config, preset_names
from pretrain.strict_yaml import load_yaml

_TYPES = typing.get_type_hints(Config)

# One line of the class docstring per field: names, defaults and explanations exist once.
_HELP = dict(re.findall(r"^ {8}(\w+): (.+)$", Config.__doc__ or "", flags=re.MULTILINE))


def parse_arguments(arguments: list[str] | None = None) -> Config:
    """Builds a run's settings from defaults, then `--config`, then flags.

    With `--resume` the run folder's own `config.yaml` takes the place of the defaults, and settings
    that decide what is learnt must not differ from it. Prints one line and exits with status 2 on
    a mistake.
    """
    parser = Parser(
        prog="python pretrain/run.py",
        description="Pretrains an object-centric model.",
        epilog=f"presets: {', '.join(preset_names())}. Flags override the config file.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="NAME|FILE", help="a preset's name or a YAML file")
    parser.add_argument("--print-config", action="store_true", help="print the settings and stop")
    for f in fields(Config):
        _add_flag(parser, f.name, f.default)
    flags, unknown = parser.parse_known_args(arguments)
    try:
        if unknown:
            options = [option for action in parser._actions for option in action.option_strings]
            raise ConfigError(f"unknown argument {unknown[0]!r}{suggest(unknown[0], options)}")
        given = load_yaml(find_config(flags.config)) if flags.config else {}
        for name in _TYPES:
            if getattr(flags, name) is not None:
                given[name] = getattr(flags, name)
        config = build(given)
        if config.resume and (config.folder / "config.yaml").is_file():
            config = _continued(given, config.folder / "config.yaml")
        elif config.resume and not given.keys() & config.fixed_values().keys():
            raise ConfigError(
                f"--resume found no run in {config.folder}; check --out, or name the settings of a "
                "new run, such as --config multi_dsprites"
            )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if flags.print_config:
        print(config.to_yaml(), end="")
        parser.exit()
    return config


def _continued(given: dict[str, Any], path: Path) -> Config:
    """The settings of the run in the folder, with what was given where that may change."""
    saved = build(load_yaml(path))
    config = build(given, saved)
    for name, value in config.fixed_values().items():
        if value != getattr(saved, name):
            raise ConfigError(
                f"a resumed run keeps {name}={getattr(saved, name)} of {path}, but {value} was "
                "asked for; start it in another --out"
            )
    return config


def _add_flag(parser: argparse.ArgumentParser, name: str, default: Any) -> None:
    kind, option = _TYPES[name], "--" + name.replace("_", "-")
    text = f"{_HELP[name]} Default: {default}.".replace("%", "%%")
    if kind is bool:
        action = argparse.BooleanOptionalAction
        parser.add_argument(option, action=action, default=None, help=text)
    elif typing.get_origin(kind) is Literal:
        choices = "|".join(typing.get_args(kind))
        parser.add_argument(option, metavar=choices, help=text)
    else:
        word = {int: "N", float: "X"}.get(kind, "TEXT")
        parser.add_argument(option, metavar=word, help=text)
