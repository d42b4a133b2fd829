"""The command line: parsing only. Each command's work is imported when it is asked for, so that help is instant.

Whatever goes wrong becomes one line on standard error and an exit code of ``exit_codes``, in :func:`main`, nowhere
else; a traceback is for TRACKSIDE_DEBUG=1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from trackside.control_plane.exit_codes import CommandFailed, ExitCode

__all__ = ["main"]


def main() -> None:
    """Entry point of the command ``trackside``; ends the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code; every error is told here."""
    try:
        with commands.make_context("trackside", list(arguments)) as context:
            code = int(commands.invoke(context) or ExitCode.OK)
        sys.stdout.flush()  # here a closed pipe can still be told apart from an error
        return code
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as wrong:
        print(wrong.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    except click.ClickException as wrong:
        hint = f"; see {wrong.ctx.command_path} --help" if isinstance(wrong, click.UsageError) and wrong.ctx else ""
        return _tell(wrong.format_message().rstrip(".") + hint, ExitCode.USAGE)
    except CommandFailed as failed:
        return _tell(str(failed), failed.code)
    except (KeyboardInterrupt, click.Abort):
        return 128 + 2  # what a shell expects of SIGINT
    except BrokenPipeError:
        _forget_stdout()
        return ExitCode.OK
    except Exception as defect:
        if os.environ.get("TRACKSIDE_DEBUG") == "1":
            raise
        return _tell(f"defect in Trackside: {defect!r}; TRACKSIDE_DEBUG=1 shows where", ExitCode.INTERNAL)


def _tell(sentences: str, code: ExitCode) -> int:
    for sentence in sentences.splitlines():
        print(f"trackside: {sentence}", file=sys.stderr)
    return int(code)


def _forget_stdout() -> None:
    """The reader of a pipe has gone; the interpreter's last flush must not complain about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class LazyCommands(click.Group):
    """A group whose commands are built one at a time, when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        summary, build = COMMANDS[cmd_name]
        command = build()
        command.name, command.short_help = cmd_name, summary
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (summary, _) in COMMANDS.items()])


def _command(callback: Callable[..., Any], options: list[click.Parameter], text: str, examples: str) -> click.Command:
    """A command whose help ends with lines to copy."""
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    epilog = f"\b\nExamples:\n{lines}"
    return click.Command(None, callback=callback, params=options, help=text, epilog=epilog)


def _flag(name: str, text: str) -> click.Option:
    return click.Option([name], is_flag=True, help=text)


def _setting_options() -> list[click.Parameter]:
    """Options made from the table of keys; their text is judged by it, too, so that all sources get one treatment."""
    from trackside.control_plane.config_keys import KEYS

    config = click.Option(["--config"], metavar="FILE", help="AppConfig.json to start from.")
    keys = [key for key in KEYS if key.flag]
    options = [
        click.Option([key.flag, _parameter(key.name)], metavar=key.metavar, help=f"{key.prose}{_default(key)}")
        for key in keys
    ]
    return [config, *options]


def _parameter(name: str) -> str:
    return f"key_{name.lower()}"


def _default(key: Any) -> str:
    text = key.default_prose.split(" (")[0] or key.shown(key.default)
    return f"  [default: {text}]"


def _flags_of(given: dict[str, Any]) -> dict[str, object]:
    """Options named by :func:`_parameter`, as names of keys."""
    return {name.removeprefix("key_"): value for name, value in given.items()}


def _serve() -> click.Command:
    def serve(config: str | None, take_over: bool, **given: Any) -> int:
        from trackside.control_plane.config import conclude

        conclusion = conclude(config, flags=_flags_of(given))
        if conclusion.settings is None:
            raise CommandFailed(ExitCode.CONFIGURATION, "\n".join(map(str, conclusion.problems)))
        for note in conclusion.notes:
            print(f"note: {note}", file=sys.stderr)

        from trackside.control_plane.supervisor import run_server

        return run_server(conclusion.settings, warnings=conclusion.warnings, take_over=take_over)

    return _command(
        serve,
        [
            *_setting_options(),
            _flag("--take-over", "From the server that has the run directory: it drains, this one goes on."),
        ],
        "Run the server until SIGTERM or Ctrl-C, then drain. Every key of docs/configuration.md can also stand in the "
        "file or in the environment; `trackside check-config` shows what would hold.",
        """
        trackside serve
        trackside serve --port 0 --data-dir ./data --gateways 2
        trackside serve --config AppConfig.json --broker kafka:9092
        trackside serve --config AppConfig.json --take-over
        """,
    )


def _check_config() -> click.Command:
    def check_config(config: str | None, as_json: bool, **given: Any) -> int:
        from trackside.control_plane import config_pages
        from trackside.control_plane.config import conclude

        conclusion = conclude(config, flags=_flags_of(given))
        print(config_pages.as_json(conclusion) if as_json else config_pages.as_table(conclusion))
        return ExitCode.CONFIGURATION if conclusion.problems else ExitCode.OK

    return _command(
        check_config,
        [*_setting_options(), click.Option(["--json", "as_json"], is_flag=True, help="For programs.")],
        "Print the configuration that `serve` would run with, where each value comes from, and every error. Takes the "
        "same options. Exit code 78 when there is an error. Passwords are not printed.",
        """
        trackside check-config
        trackside check-config --config AppConfig.json
        trackside check-config --config AppConfig.json --json
        """,
    )


def _demo() -> click.Command:
    def demo(**options: Any) -> int:
        from types import SimpleNamespace

        from trackside.bench import demo as module

        return int(module.main(SimpleNamespace(**options)))

    return _command(
        demo,
        [
            click.Option(["--seconds"], type=click.FloatRange(1), default=30.0, show_default=True, help="How long."),
            _flag("--forever", "Until Ctrl-C."),
            click.Option(["--ibt"], metavar="FILE", help="Play a recorded iRacing drive in place of the car."),
            click.Option(["--broker"], metavar="HOST:PORT", help="Log to Kafka in place of the local log."),
            click.Option(["--kill"], metavar="NAMES", help="Kill these processes on the way: producer,consumer-0."),
            click.Option(["--gateways"], type=click.IntRange(1, 64), default=1, help="Gateways of the server."),
            click.Option(["--producers"], type=click.IntRange(1, 64), default=1, help="Producers of the server."),
            click.Option(["--consumers"], type=click.IntRange(1, 64), default=1, help="Consumers of the server."),
            click.Option(
                ["--port"], type=click.IntRange(0, 65535), default=0, help="Port of the server; 0: a free one."
            ),
            _flag("--keep", "Keep run directory, log and messages of the server, and say where they are."),
            click.Option(["--json", "as_json"], is_flag=True, help="The summary for programs."),
            click.Option(["--server"], metavar="HOST:PORT", help="Use this server, which runs; it is left as it is."),
            *_access_options(),
        ],
        "Start a server of its own, let a simulated car write telemetry and a reader read it back, show what flows, and "
        "prove at the end that every packet that was accepted was read. Exit code 1 when not. With --server it uses one "
        "that runs, as data source Demo; its token needs the rights read, write and manage for that.",
        """
        trackside demo
        trackside demo --seconds 10 --kill producer,gateway
        trackside demo --ibt drive.ibt --broker localhost:9092
        trackside demo --server pit:13579 --roots ca.pem --token-file demo.token
        """,
    )


def _access_options() -> list[click.Parameter]:
    """Of commands that are clients of a server. Files all of them: arguments are for everybody to see."""

    def file(name: str, text: str) -> click.Option:
        variable = f"TRACKSIDE_CLIENT_{name.removeprefix('--').replace('-', '_').upper()}"
        return click.Option([name], metavar="FILE", envvar=variable, show_envvar=True, help=text)

    return [
        file("--roots", "PEM file of the authorities to trust; turns TLS on."),
        file("--certificate", "PEM file of this client's certificate, where the server asks for one."),
        file("--key", "PEM file of the certificate's key."),
        file("--token-file", "File with the token, where the server asks for one."),
    ]


def _top() -> click.Command:
    def top(run_dir: str | None, once: bool, as_json: bool, interval: float) -> int:
        from trackside.control_plane.config import conclude
        from trackside.control_plane.top import main as show

        conclusion = conclude(flags={"RunDir": run_dir})
        if "RunDir" in conclusion.broken:
            raise CommandFailed(ExitCode.CONFIGURATION, "\n".join(map(str, conclusion.problems)))
        return int(show(conclusion.value("RunDir"), once, as_json, interval))

    return _command(
        top,
        [
            click.Option(["--run-dir"], metavar="DIR", help="Run directory of the server.  [default: as for serve]"),
            _flag("--once", "Print once and leave."),
            click.Option(["--json", "as_json"], is_flag=True, help="For programs; one document a time."),
            click.Option(
                ["--interval"], type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds."
            ),
        ],
        "Show processes, rings, rates and lags of a server. Reads its shared memory only, so it works while processes "
        "are dead.",
        """
        trackside top
        trackside top --once --json
        trackside top --run-dir /run/trackside --interval 5
        """,
    )


def _doctor() -> click.Command:
    def doctor(config: str | None, as_json: bool, **given: Any) -> int:
        from trackside.control_plane.config import conclude
        from trackside.control_plane.doctor import main as examine

        return int(examine(conclude(config, flags=_flags_of(given)), as_json))

    return _command(
        doctor,
        [*_setting_options(), click.Option(["--json", "as_json"], is_flag=True, help="For programs.")],
        "Look at this machine as the server would find it: shared memory, limits, ports, cores, clock, folders, disk, "
        "Kafka. Takes the options of `serve`, starts and changes nothing, and may run beside the server. Exit code 1 when "
        "the server could not work.",
        """
        trackside doctor
        trackside doctor --config AppConfig.json --gateways 4
        trackside doctor --broker kafka:9092 --json
        """,
    )


def _dead_letters() -> click.Command:
    def dead_letters(
        config: str | None,
        resend: bool,
        ids: tuple[str, ...],
        topics: tuple[str, ...],
        sent: bool,
        as_json: bool,
        **given: Any,
    ) -> int:
        from trackside.control_plane.config import conclude

        conclusion = conclude(config, flags=_flags_of(given))
        if conclusion.settings is None:
            raise CommandFailed(ExitCode.CONFIGURATION, "\n".join(map(str, conclusion.problems)))

        from trackside.control_plane.dead_letters import Choice, main

        return int(main(conclusion.settings, Choice(ids, topics, sent), resend=resend, as_json=as_json))

    return _command(
        dead_letters,
        [
            _flag("--resend", "Send them again, through the running server."),
            click.Option(["--id", "ids"], metavar="ID", multiple=True, help="Only this one; may be given again."),
            click.Option(["--topic", "topics"], metavar="TOPIC", multiple=True, help="Only those of this topic."),
            _flag("--sent", "List those that were sent again, too."),
            click.Option(["--json", "as_json"], is_flag=True, help="For programs; a document a letter."),
            *_setting_options(),
        ],
        "List packets that were accepted and that the log refused for good: when, where they belong, their key, size and "
        "reason, and whether they lie in the dead-letter topic of Kafka or in the file of the data directory. With "
        "--resend they are sent again; exit code 1 when the log refuses some once more. Takes the options of `serve`, to "
        "find the same log and the same folders.",
        """
        trackside dead-letters --config AppConfig.json
        trackside dead-letters --json --topic Car.fast
        trackside dead-letters --resend --id 4f1c0a7be2d9
        """,
    )


def _token() -> click.Command:
    def token(name: str, file: str | None, **rights: tuple[str, ...]) -> int:
        import json
        from pathlib import Path

        from trackside.control_plane.token_command import add_to_file, make_token

        made = make_token(name, dict(rights))
        if file is not None:
            add_to_file(Path(file), made)
        print(made.token)
        if file is None:
            print(json.dumps(made.entry))
        return ExitCode.OK

    def right(name: str, text: str) -> click.Option:
        return click.Option([f"--{name}"], metavar="PATTERN", multiple=True, help=f"{text} Any number of times.")

    return _command(
        token,
        [
            click.Argument(["name"]),
            click.Option(["--file"], metavar="FILE", help="TokensFile to add it to; made when it is not there."),
            right("read", "Data sources to read."),
            right("write", "Data sources to write packets and data formats to."),
            right("manage", "Data sources whose sessions to begin, change and end."),
        ],
        "Make a token and print it, once: the file gets its hash only. In patterns `*` is any run of characters, `?` one. "
        "For a name that is in the file already, and without patterns, it makes one more token with the same rights. "
        "Without --file the entry is printed, too. A server takes the changed file within a second.",
        """
        trackside token car-44 --file tokens.json --write Car44 --manage Car44
        trackside token pit-wall --file tokens.json --read '*'
        """,
    )


def _version() -> click.Command:
    def version() -> int:
        print(f"trackside {_version_text()}")
        return ExitCode.OK

    return _command(version, [], "Print the version.", "trackside version")


def _version_text() -> str:
    from importlib.metadata import version

    return version("trackside")


COMMANDS: dict[str, tuple[str, Callable[[], click.Command]]] = {
    "serve": ("Run the server.", _serve),
    "demo": ("See it work: a car, a server, a reader, and the proof that nothing is lost.", _demo),
    "top": ("Watch a server: processes, rings, rates, lags.", _top),
    "doctor": ("Check this machine: is it fit for the server, and what to change.", _doctor),
    "dead-letters": ("List packets that the log refused, and send them again.", _dead_letters),
    "check-config": ("Print the effective configuration and every error in it.", _check_config),
    "token": ("Make a token for clients, and its entry in the tokens file.", _token),
    "version": ("Print the version.", _version),
}

commands = LazyCommands(
    help="Trackside: live telemetry over gRPC, through shared memory, to and from Kafka or a log on disk.",
    epilog="\b\nExamples:\n  trackside demo\n  trackside serve --port 13579\n  trackside top",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
