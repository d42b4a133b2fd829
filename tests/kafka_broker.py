"""A real Apache Kafka for tests, benches and the demo: one KRaft node on free ports of the loopback.

The version is pinned in ``tests/kafka/pom.xml``. Maven fetches the jars once into
``$XDG_CACHE_HOME/trackside/kafka-<version>/libs`` (``~/.cache`` without it); after that neither Maven nor a network is
needed. Topics are created by whoever asks for an unknown one, with three partitions, as on many brokers in the field:
a client that leans on that shows up as a topic with three partitions.

Also a command: ``python tests/kafka_broker.py --port 0`` runs one until Ctrl-C and prints its address.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Certificates", "KafkaBroker", "KafkaUnavailable", "ensure_libs", "kafka_version"]

_POM = Path(__file__).with_name("kafka") / "pom.xml"
_JAVA_MIN = 17
_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_DOWNLOAD_SECONDS = 600.0
AUTO_CREATED_PARTITIONS = 3
SASL_USER, SASL_PASSWORD = "alice", "pl41n-s3cret"
SCRAM_USER, SCRAM_PASSWORD = "bob", "scr4m-s3cret"
KEY_PASSWORD = "k3y-s3cret"
"""Told apart from everything else that a log may hold: tests look for them where they must not be."""

SASL_SECURITY = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": SASL_USER,
    "sasl.password": SASL_PASSWORD,
}
"""As ``Settings.security`` has it, for ``sasl_address``."""

_PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{SASL_USER}="{SASL_PASSWORD}";'
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_SCRAM_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")

_SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={public},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={public}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
log.dirs={folder}/data
num.partitions={partitions}
auto.create.topics.enable=true
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=100
file.delete.delay.ms=100
"""

_TLS_PROPERTIES = """\
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.ssl.ssl.client.auth=required
"""

_LOG4J_PROPERTIES = """\
rootLogger.level=INFO
rootLogger.appenderRefs=console
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
"""

_DIES_WITH_PARENT = [
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])",
]
"""Sets PR_SET_PDEATHSIG and becomes the command after it: a test run that is killed leaves no broker of 700 MB behind."""


class Certificates(NamedTuple):
    """PEM files for TLS on the loopback, made for one run. ``keystore`` is the broker's key and certificate in one."""

    authority: Path
    stranger: Path
    keystore: Path
    client_certificate: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """``client_key`` is locked with KEY_PASSWORD; ``stranger`` is an authority that signed none of them."""
        import trustme

        folder.mkdir(parents=True, exist_ok=True)
        made = cls(*(folder / f"{name}.pem" for name in cls._fields))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(made.authority))
        trustme.CA().cert_pem.write_to_path(str(made.stranger))
        broker, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("trackside.test")
        chain = b"".join(blob.bytes() for blob in broker.cert_chain_pems)
        made.keystore.write_bytes(_pkcs8(broker.private_key_pem.bytes()) + chain)
        made.client_certificate.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
        made.client_key.write_bytes(_pkcs8(client.private_key_pem.bytes(), KEY_PASSWORD))
        return made


def _pkcs8(key: bytes, password: str = "") -> bytes:
    """The only form in which Java reads a PEM key, and the usual one for a locked key."""
    from cryptography.hazmat.primitives import serialization as forms  # trustme stands on it

    lock = forms.BestAvailableEncryption(password.encode()) if password else forms.NoEncryption()
    loaded = forms.load_pem_private_key(key, None)
    return loaded.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, lock)


class KafkaUnavailable(Exception):
    """This machine cannot run the broker; the text says what is missing."""


def kafka_version() -> str:
    """The pinned version, from the pom."""
    match = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([^<]+)</version>", _POM.read_text())
    assert match, f"{_POM} names no version of Kafka"
    return match.group(1)


def ensure_libs() -> Path:
    """The folder of jars, fetched when it is not there yet. Raises KafkaUnavailable."""
    _check_java()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    libs = cache / "trackside" / f"kafka-{kafka_version()}" / "libs"
    if not libs.is_dir():
        _fetch(libs)
    return libs


def _check_java() -> None:
    java = shutil.which("java")
    if java is None:
        raise KafkaUnavailable(f"no `java` found; Apache Kafka needs Java {_JAVA_MIN} or newer")
    said = _run([java, "-version"], 60, Path.cwd()).stderr
    match = re.search(r'version "(\d+)', said)
    if match is None or int(match.group(1)) < _JAVA_MIN:
        raise KafkaUnavailable(f"Apache Kafka needs Java {_JAVA_MIN} or newer; `java -version` says {said[:80]!r}")


def _run(command: list[str], seconds: float, folder: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


def _fetch(libs: Path) -> None:
    """Aside, then renamed: two runs at once cannot see half a folder."""
    mvn = shutil.which("mvn")
    if mvn is None:
        raise KafkaUnavailable("no `mvn` found; Maven fetches Apache Kafka")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="fetch-") as aside:
        shutil.copy(_POM, aside)  # Maven must leave nothing in the checkout
        command = [mvn, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"]
        try:
            done = _run(command, _DOWNLOAD_SECONDS, aside)
        except subprocess.TimeoutExpired as error:
            raise KafkaUnavailable(f"`mvn` did not fetch Apache Kafka within {_DOWNLOAD_SECONDS:.0f} s") from error
        if done.returncode:
            raise KafkaUnavailable(f"`mvn` could not fetch Apache Kafka: {(done.stdout + done.stderr)[-400:].strip()}")
        with contextlib.suppress(FileExistsError, OSError):  # another run was first: its folder is as good
            os.rename(Path(aside) / "libs", libs)
    if not libs.is_dir():
        raise KafkaUnavailable(f"could not place the jars of Apache Kafka in {libs}")


class KafkaBroker:
    """One node in ``folder``; ports, topics and data survive stop, kill and start of the same object.

    With ``tls`` it listens with TLS, too; that needs trustme.
    """

    def __init__(
        self, folder: Path, *, port: int = 0, properties: Mapping[str, str] | None = None, tls: bool = False
    ) -> None:
        self.folder = folder
        self._properties = dict(properties or {})
        self._wanted_port = port
        self._ports: dict[str, int] = {}
        self._tls = tls
        self._certificates: Certificates | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._libs = ensure_libs()

    @property
    def address(self) -> str:
        """Bootstrap address without security."""
        return self.address_of("PLAINTEXT")

    @property
    def sasl_address(self) -> str:
        """Bootstrap address that asks for SASL: PLAIN with ``SASL_USER``, either SCRAM with ``SCRAM_USER``."""
        return self.address_of("SASL_PLAINTEXT")

    def address_of(self, protocol: str) -> str:
        """Bootstrap address of a listener: PLAINTEXT, SASL_PLAINTEXT; with TLS also SASL_SSL and SSL, which asks for a
        client's certificate."""
        return f"127.0.0.1:{self._chosen_ports()[protocol]}"

    @property
    def certificates(self) -> Certificates:
        if self._certificates is None:
            self._certificates = Certificates.make(self.folder / "certificates")
        return self._certificates

    @property
    def log_path(self) -> Path:
        return self.folder / "broker.log"

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with the end of its log when it does not."""
        assert self._process is None, "already running"
        self._format_once()
        java = [*_DIES_WITH_PARENT, "java", "-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-cp", f"{self._libs}/*"]
        java += [f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*java, "kafka.Kafka", str(self._config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
            )
        self._wait_ready()

    def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL when that takes too long. Nothing happens when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a power cut of the process looks like to clients."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process, to be stopped and continued by signals."""
        assert self._process is not None, "not running"
        return self._process.pid

    # topics

    def create_topic(self, topic: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        from confluent_kafka.admin import NewTopic

        new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        admin = self._admin()  # held: a client that is gone cancels its requests
        admin.create_topics([new])[topic].result(timeout=15)

    def delete_topic(self, topic: str) -> None:
        """Returns when the broker no longer lists it."""
        admin = self._admin()
        admin.delete_topics([topic])[topic].result(timeout=15)
        deadline = time.monotonic() + 15
        while topic in admin.list_topics(timeout=5).topics:
            assert time.monotonic() < deadline, f"{topic} is still there"
            time.sleep(0.02)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """What retention does: offsets below ``before`` are gone."""
        from confluent_kafka import TopicPartition

        place = TopicPartition(topic, partition, before)
        admin = self._admin()
        admin.delete_records([place])[place].result(timeout=15)

    def configure_topic(self, topic: str, config: Mapping[str, str]) -> None:
        """Change settings of a topic that is in use. Returns when the broker tells the new ones."""
        from confluent_kafka import admin as api

        kind, set_ = api.ConfigResource.Type.TOPIC, api.AlterConfigOpType.SET
        entries = [api.ConfigEntry(name, value, incremental_operation=set_) for name, value in config.items()]
        admin, place = self._admin(), api.ConfigResource(kind, topic)
        for answer in admin.incremental_alter_configs(
            [api.ConfigResource(kind, topic, incremental_configs=entries)]
        ).values():
            answer.result(timeout=15)
        deadline = time.monotonic() + 15
        while True:
            told = admin.describe_configs([place])[place].result(timeout=15)
            if all(told[name].value == value for name, value in config.items()):
                return
            assert time.monotonic() < deadline, f"{topic} has not taken {config}"
            time.sleep(0.02)

    def forbid_writing(self, topic: str) -> None:
        """``SASL_USER`` may do everything with ``topic`` but write to it."""
        allow, deny = self._writing_rules(topic)
        admin = self._admin()
        for answer in admin.create_acls([allow, deny]).values():
            answer.result(timeout=15)

    def allow_writing(self, topic: str) -> None:
        """Take back what ``forbid_writing`` forbade."""
        from confluent_kafka import admin as api

        _, deny = self._writing_rules(topic)
        admin = self._admin()
        gone = api.AclBindingFilter(
            deny.restype, deny.name, deny.resource_pattern_type, deny.principal, deny.host, deny.operation,
            deny.permission_type,
        )  # fmt: skip
        for answer in admin.delete_acls([gone]).values():
            answer.result(timeout=15)

    @staticmethod
    def _writing_rules(topic: str) -> tuple[Any, Any]:
        from confluent_kafka import admin as api

        def entry(operation: Any, permission: Any) -> Any:
            pattern = api.ResourcePatternType.LITERAL
            return api.AclBinding(
                api.ResourceType.TOPIC, topic, pattern, f"User:{SASL_USER}", "*", operation, permission
            )

        return (
            entry(api.AclOperation.ALL, api.AclPermissionType.ALLOW),
            entry(api.AclOperation.WRITE, api.AclPermissionType.DENY),
        )

    def topics(self) -> dict[str, int]:
        """Topics and their partition counts."""
        found: Mapping[str, Any] = self._admin().list_topics(timeout=10).topics
        return {name: len(metadata.partitions) for name, metadata in found.items()}

    # inside

    @property
    def _config_path(self) -> Path:
        return self.folder / "server.properties"

    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        quick = {"socket.connection.setup.timeout.ms": 1000, "reconnect.backoff.ms": 50, "log_level": 0}
        return AdminClient({"bootstrap.servers": self.address, "allow.auto.create.topics": False, **quick})

    def _chosen_ports(self) -> dict[str, int]:
        """By protocol, the controller's under its name."""
        if not self._ports:
            names = ["CONTROLLER", "PLAINTEXT", "SASL_PLAINTEXT", *(("SASL_SSL", "SSL") if self._tls else ())]
            self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
            self._ports["PLAINTEXT"] = self._wanted_port or self._ports["PLAINTEXT"]
        return self._ports

    def _format_once(self) -> None:
        if self._config_path.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.properties").write_text(_LOG4J_PROPERTIES)
        self._config_path.write_text(self._server_properties())
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        command = ["java", "-cp", f"{self._libs}/*", "kafka.tools.StorageTool", "format", "-t", cluster]
        command += ["-c", str(self._config_path)]
        for mechanism in _SCRAM_MECHANISMS:
            command += ["--add-scram", f"{mechanism}=[name={SCRAM_USER},password={SCRAM_PASSWORD}]"]
        done = _run(command, _START_SECONDS, self.folder)
        if done.returncode:
            self._config_path.unlink()
            raise RuntimeError(f"Apache Kafka could not format {self.folder}: {(done.stdout + done.stderr)[-400:]}")

    def _server_properties(self) -> str:
        public = dict(self._chosen_ports())
        text = _SERVER_PROPERTIES.format(
            controller=public.pop("CONTROLLER"),
            public=",".join(f"{protocol}://127.0.0.1:{port}" for protocol, port in public.items()),
            protocols=",".join(f"{protocol}:{protocol}" for protocol in public),
            folder=self.folder,
            partitions=AUTO_CREATED_PARTITIONS,
        )
        for listener in (protocol.lower() for protocol in public if protocol.startswith("SASL")):
            text += f"listener.name.{listener}.plain.sasl.jaas.config={_PLAIN}\n"
            for mechanism in _SCRAM_MECHANISMS:
                text += f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config={_SCRAM}\n"
        if self._tls:
            text += _TLS_PROPERTIES.format(**self.certificates._asdict())
        return text + "".join(f"{key}={value}\n" for key, value in self._properties.items())

    def _wait_ready(self) -> None:
        from confluent_kafka import KafkaException

        admin = self._admin()
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(KafkaException):
                if admin.list_topics(timeout=1).brokers:
                    return
        self.kill()
        raise RuntimeError(f"Apache Kafka did not start; the end of {self.log_path}:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)


def _free_ports(count: int) -> list[int]:
    """Free now; held open together so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running_broker(port: int = 0, *, tls: bool = False) -> Iterator[KafkaBroker]:
    """A broker in a folder of its own that is gone afterwards. Ports taken meanwhile: once more, on others."""
    with tempfile.TemporaryDirectory(prefix="trackside-kafka-") as folder:
        broker = KafkaBroker(Path(folder) / "first", port=port, tls=tls)
        try:
            broker.start()
        except RuntimeError:
            broker = KafkaBroker(Path(folder) / "second", port=port, tls=tls)
            broker.start()
        try:
            yield broker
        finally:
            broker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a single-node Apache Kafka until Ctrl-C; data is thrown away.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    port = parser.parse_args().port
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running_broker(port) as broker:
            print(broker.address, flush=True)
            while broker.running:
                time.sleep(0.2)
            print("Apache Kafka has died", file=sys.stderr)
            return 1
    except KafkaUnavailable as missing:
        print(missing, file=sys.stderr)
        return 69
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
