"""The configuration, concluded once: file < environment < flags, checked as a whole, then frozen into ``Settings``.

The keys themselves are in ``config_keys``, the sources in ``config_sources``. All errors are collected, so that an
operator sees them together and not one a start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trackside.control_plane.config_access import (
    REMOTE,
    SECRETS,
    exposure,
    open_secrets,
    remote_finding,
    tls_findings,
    tokens_finding,
)
from trackside.control_plane.config_kafka import (
    CONSUMING,
    PUBLISHING,
    WHITELIST_KEY,
    read_overrides,
    security_is_on,
    security_problems,
    security_properties,
)
from trackside.control_plane.config_keys import KEYS, Key
from trackside.control_plane.config_kinds import Refused
from trackside.control_plane.config_sources import (
    FileNotUsable,
    Given,
    Problem,
    Reading,
    locate_file,
    read_document,
    read_environment,
    read_flags,
    read_mapping,
    shorten,
)
from trackside.data_plane.spec import Settings

__all__ = ["Conclusion", "ConfigError", "Effective", "conclude", "load_settings"]

RUN_DIR_BYTES_MAX = 107 - len("/control-999999.sock")
"""The run directory holds a Unix socket, whose path the kernel bounds to 107 bytes (unix(7))."""


class ConfigError(Exception):
    """The configuration is not usable; one line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class NotConcluded(Exception):
    """A check cannot run, because a value that it needs was refused already."""


class Effective(NamedTuple):
    """What holds for one key and who said so; ``value`` is None where the key was not given and applies to nothing."""

    key: Key
    value: Any
    origin: str


@dataclass(slots=True)
class Conclusion:
    """Everything that is known after reading all sources. ``settings`` is None when there are problems."""

    file: str | None = None
    values: dict[str, Effective] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    publisher_overrides: dict[str, str] = field(default_factory=dict)
    consumer_overrides: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    settings: Settings | None = None

    def value(self, name: str) -> Any:
        """Raises NotConcluded when what was given for this key is no value at all."""
        if name in self.broken:
            raise NotConcluded(name)
        return self.values[name].value

    def given(self, name: str) -> bool:
        """Whether somebody said it; a default is nobody."""
        return not self.values[name].origin.startswith(DEFAULT)

    def refuse(self, name: str, reason: str) -> None:
        """A problem of a value that is fine by itself."""
        effective = self.values[name]
        shown = effective.key.shown(effective.value)
        self.problems.append(Problem(name, shown, reason, effective.origin))


DEFAULT = "default"


def load_settings(
    config: str | os.PathLike[str] | Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """The settings, or ConfigError with every problem. Arguments as for :func:`conclude`."""
    conclusion = conclude(config, environ=environ, flags=flags)
    if conclusion.settings is None:
        raise ConfigError(conclusion.problems)
    return conclusion.settings


def conclude(
    config: str | os.PathLike[str] | Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Conclusion:
    """Reads all sources and checks them. Raises nothing: problems are in the result.

    ``config`` is the path of a file, or what would stand in it. Without it the environment may name a file.
    ``environ`` is the process's own unless given. ``flags`` maps names of keys to values, which win.
    Reads files and the environment, creates nothing.
    """
    variables = os.environ if environ is None else environ
    reading, conclusion = Reading(), Conclusion()
    try:
        if isinstance(config, Mapping):
            read_mapping(reading, config)
        else:
            conclusion.file, _ = locate_file(None if config is None else os.fspath(config), variables)
            if conclusion.file is not None:
                read_document(reading, conclusion.file)
    except FileNotUsable as failed:
        reading.problems.append(failed.problem)
    read_environment(reading, variables)
    read_flags(reading, flags or {})
    _conclude_values(reading, conclusion)
    _add_derived(conclusion, variables)
    _add_broker_files(reading, conclusion)
    conclusion.problems = reading.problems + conclusion.problems
    conclusion.notes = reading.notes + conclusion.notes
    _check_together(conclusion)
    if not conclusion.problems:
        conclusion.settings = _settings_of(conclusion)
    return conclusion


def _conclude_values(reading: Reading, conclusion: Conclusion) -> None:
    """One value a key: the last that was given, or the default."""
    last = {given.key.name: given for given in reading.given}
    for key in KEYS:
        given = last.get(key.name)
        if given is None:
            conclusion.values[key.name] = Effective(key, key.default, DEFAULT)
            continue
        try:
            value = key.kind.parse(given.raw)
        except Refused as refused:
            conclusion.problems.append(_refused(given, str(refused)))
            conclusion.broken.add(key.name)
            value = None
        conclusion.values[key.name] = Effective(key, value, given.origin)
        if key.instead and value is not None and value not in key.harmless:
            conclusion.notes.append(f"{key.name} has no effect: {key.instead} ({given.origin})")


def _refused(given: Given, reason: str) -> Problem:
    key = given.key
    shown = "" if key.secret else shorten(given.raw)
    allowed = f"must be {key.kind.allowed}"
    return Problem(key.name, shown, f"{reason}; {allowed}" if reason else allowed, given.origin)


def _add_derived(conclusion: Conclusion, variables: Mapping[str, str]) -> None:
    """Defaults that depend on other values or on the machine."""

    def derive(name: str, value: object, origin: str) -> None:
        if not conclusion.given(name):
            conclusion.values[name] = conclusion.values[name]._replace(value=value, origin=f"{DEFAULT}, {origin}")

    if conclusion.values["StreamApiPort"].value == 0:
        derive("PrometheusMetricPort", 0, "as StreamApiPort is 0")
    domain = conclusion.values["Domain"].value
    derive("Naming", "domain" if domain else "legacy", "as Domain is " + ("set" if domain else "empty"))
    # systemd gives a list when a unit has several; the first is the one that the unit is named for
    if runtime := variables.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        derive("RunDir", runtime, "$RUNTIME_DIRECTORY")
    else:
        derive("RunDir", f"/dev/shm/trackside-{os.getuid()}", "one a user")
    if state := variables.get("STATE_DIRECTORY", "").split(":")[0]:
        derive("DataDir", state, "$STATE_DIRECTORY")
    else:
        derive("DataDir", os.path.abspath(os.path.expanduser("~/.local/state/trackside")), "one a user")


def _add_broker_files(reading: Reading, conclusion: Conclusion) -> None:
    """Override files count only where there is a broker to talk to."""
    names = (PUBLISHING.key, CONSUMING.key, WHITELIST_KEY)
    named = frozenset(name for name in names if conclusion.given(name))
    if any(conclusion.values[name].value for name in ("BrokerUrl", "ForwardTo")) and not conclusion.broken.intersection(
        names
    ):
        paths = {name: conclusion.value(name) for name in names}
        conclusion.publisher_overrides, conclusion.consumer_overrides = read_overrides(reading, paths, named)


def _check_together(conclusion: Conclusion) -> None:
    """What contradicts although each value is fine by itself. Order is that of the page docs/configuration.md."""
    for check in CHECKS:
        with suppress(NotConcluded):
            check(conclusion)


def _check_broker(this: Conclusion) -> None:
    broker, security = this.value("BrokerUrl"), _security(this)
    forward = this.value("ForwardTo")
    if broker and forward:
        this.refuse("ForwardTo", "is set together with BrokerUrl: that log is Kafka's already; leave one of them out")
    if security_is_on(security) and not broker and not forward:
        this.refuse("BrokerUrl", "is empty, but Security is set; without a broker nobody would use it")
    if this.file and not broker and not this.given("BrokerUrl"):
        this.notes.append("BrokerUrl is not set: the log is on this machine's disk, in DataDir")


def _check_retention(this: Conclusion) -> None:
    retention, segment = this.value("RetentionBytes"), this.value("SegmentBytes")
    if retention and retention < 2 * segment:
        this.refuse("RetentionBytes", f"must be at least two segments, 2 x SegmentBytes = {2 * segment}")


def _check_security(this: Conclusion) -> None:
    origins = {name.split(".", 1)[1]: this.values[name].origin for name in this.values if name.startswith("Security.")}
    this.problems.extend(security_problems(_security(this), origins))
    if _security(this)["SslCaLocation"] and security_properties(_security(this))["security.protocol"] in CLEAR:
        this.notes.append("Security: SslCaLocation is set, but the protocol is not encrypted; use SaslSsl")


def _check_tls(this: Conclusion) -> None:
    names = ("Tls.CertificateFile", "Tls.KeyFile", "Tls.ClientAuthorityFile")
    name, reason, note = tls_findings(*map(this.value, names))
    if reason:
        this.refuse(name, reason)
    if note:
        this.warnings.append(note)


def _check_tokens(this: Conclusion) -> None:
    if (path := this.value("TokensFile")) and (reason := tokens_finding(path)):
        this.refuse("TokensFile", reason)


def _check_secrets(this: Conclusion) -> None:
    this.warnings.extend(open_secrets({name: this.value(name) for name in SECRETS}))


def _check_exposure(this: Conclusion) -> None:
    listen, tls = this.value("ListenAddress"), bool(this.value("Tls.CertificateFile"))
    client_authority = bool(this.value("Tls.ClientAuthorityFile"))
    tokens = bool(this.value("TokensFile"))
    if note := exposure(listen, tls=tls, client_authority=client_authority, tokens=tokens):
        this.warnings.append(note)


CLEAR = ("PLAINTEXT", "SASL_PLAINTEXT")


def _check_names(this: Conclusion) -> None:
    strategy, mappings = this.value("StreamCreationStrategy"), this.value("PartitionMappings")
    if not this.given("StreamCreationStrategy"):
        if mappings:
            reason = (
                "mappings need StreamCreationStrategy: PartitionBased (1) to use them, TopicBased (2) to ignore them"
            )
            this.refuse("PartitionMappings", reason)
        elif this.file:
            this.notes.append("StreamCreationStrategy is not set: TopicBased (the reference would take PartitionBased)")
        return
    if strategy == "TopicBased":
        if mappings:
            this.notes.append("PartitionMappings have no effect with StreamCreationStrategy TopicBased")
        return
    owners: dict[int, str] = {}
    for stream, partition in mappings.items():
        if partition == 0:
            this.refuse(
                "PartitionMappings", f"stream {stream} has partition 0, which is the main stream's; take 1 or more"
            )
        elif partition in owners:
            reason = (
                f"streams {owners[partition]} and {stream} share partition {partition}; readers could not tell them"
            )
            this.refuse("PartitionMappings", reason)
        owners.setdefault(partition, stream)


def _check_domain(this: Conclusion) -> None:
    if this.value("Domain") and this.value("Naming") == "legacy":
        this.notes.append(f"Domain has no effect with Naming legacy ({this.values['Naming'].origin})")


def _check_sizes(this: Conclusion) -> None:
    packet = this.value("MaxPacketBytes")
    if this.value("ReaderBufferBytes") < packet:
        this.refuse(
            "ReaderBufferBytes", f"must be at least MaxPacketBytes = {packet}, or large packets could not be read"
        )
    buffer = this.value("ReaderBufferBytes")
    if this.value("AllReadersBufferBytes") < buffer:
        this.refuse("AllReadersBufferBytes", f"must be at least ReaderBufferBytes = {buffer}, what one may have")


def _check_ports(this: Conclusion) -> None:
    names = ("StreamApiPort", "KeyGeneratorPort", "PrometheusMetricPort")
    for index, name in enumerate(names):
        for before in names[:index]:
            if this.value(name) and this.value(name) == this.value(before):
                this.refuse(name, f"is the port of {PORTS[before]}, too ({this.values[before].origin})")


PORTS = {"StreamApiPort": "the Stream API", "KeyGeneratorPort": "the key generator"}


def _check_keys(this: Conclusion) -> None:
    name = "RemoteKeyGeneratorServiceAddress"
    address, remote = this.value(name), this.value("UseRemoteKeyGenerator")
    if remote and not address:
        this.refuse("UseRemoteKeyGenerator", f"needs {name}")
    if address and not remote:
        this.notes.append(f"{name} has no effect without UseRemoteKeyGenerator ({this.values[name].origin})")
    host, _, port = address.rpartition(":")
    if remote and host in OURSELVES and int(port) in (this.value("StreamApiPort"), this.value("KeyGeneratorPort")):
        this.refuse(name, "is this server itself; it would ask itself for ever")


def _check_remote_access(this: Conclusion) -> None:
    paths = {name: this.value(name) for name in REMOTE}
    if not any(paths.values()):
        return
    if not this.value("UseRemoteKeyGenerator"):
        this.notes.extend(f"{name} has no effect without UseRemoteKeyGenerator" for name in REMOTE if paths[name])
        return
    name, reason = remote_finding(paths)
    if reason:
        this.refuse(name, reason)
    if paths["RemoteKeyGenerator.TokenFile"] and not paths["RemoteKeyGenerator.AuthorityFile"]:
        this.warnings.append(
            "RemoteKeyGenerator.TokenFile without RemoteKeyGenerator.AuthorityFile: the token is sent in plain text"
        )


OURSELVES = ("localhost", "127.0.0.1", "[::1]", "0.0.0.0", "[::]")


def _check_places(this: Conclusion) -> None:
    run, data = this.value("RunDir"), this.value("DataDir")
    if os.path.realpath(run) == os.path.realpath(data):
        this.refuse("RunDir", "is DataDir, too; shared memory belongs on a tmpfs, state on a disk")
    if len(os.fsencode(run)) > RUN_DIR_BYTES_MAX:
        reason = f"has {len(os.fsencode(run))} bytes, at most {RUN_DIR_BYTES_MAX}: it holds a Unix socket"
        this.refuse("RunDir", reason)


CHECKS: tuple[Callable[[Conclusion], None], ...] = (
    _check_broker,
    _check_retention,
    _check_security,
    _check_tls,
    _check_tokens,
    _check_secrets,
    _check_exposure,
    _check_names,
    _check_domain,
    _check_sizes,
    _check_ports,
    _check_keys,
    _check_remote_access,
    _check_places,
)


def _security(this: Conclusion) -> dict[str, object]:
    """Fields of the Security section by their names in it."""
    return {key.name.split(".", 1)[1]: this.value(key.name) for key in KEYS if key.name.startswith("Security.")}


def _settings_of(this: Conclusion) -> Settings:
    fields = {effective.key.setting: _scaled(effective) for effective in this.values.values() if effective.key.setting}
    return Settings(
        **fields,
        security=security_properties(_security(this)),
        publisher_overrides=this.publisher_overrides,
        consumer_overrides=this.consumer_overrides,
    )


def _scaled(effective: Effective) -> Any:
    return effective.value if effective.key.scale == 1 else effective.value * effective.key.scale
