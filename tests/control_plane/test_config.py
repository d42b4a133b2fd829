"""Configuration: what is understood, what is refused and in which words, and who wins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from tls_files import TlsFiles

from trackside.control_plane import config_keys, config_pages
from trackside.control_plane.config import Conclusion, ConfigError, conclude, load_settings
from trackside.control_plane.config_keys import KEYS, Key
from trackside.control_plane.config_kinds import Brokers
from trackside.data_plane.spec import Settings

NOBODY: dict[str, str] = {}

FIELD_FILE = """\
{
  "StreamApiConfig": {
    "StreamCreationStrategy": "TopicBased",
    "BrokerUrl": "kafka:9094",
    "PartitionMappings": [{"Stream": "Stream1", "Partition": 1}, {"Stream": "Stream2", "Partition": 2}],
    "IntegrateSessionManagement": true,
    "Domain": "POC",
    "UseRemoteKeyGenerator": false,
    "RemoteKeyGeneratorServiceAddress": "",
    "BatchingResponses": false,
    "StreamApiPort": 13579,
    "InitialisationTimeoutSeconds": 5,
    "TerminationTimeoutSeconds": 5,
    "EnableGrpcReflection": false
  },
  "GrpcConfig": {"MaxReceiveMessageSize": 4194304},
  "Serilog": {"MinimumLevel": {"Default": "Information"}}
}
"""


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No AppConfig.json and no override file lies where they are looked for."""
    monkeypatch.chdir(tmp_path)


def written(text: str | Mapping[str, object], name: str = "AppConfig.json") -> str:
    Path(name).write_text(text if isinstance(text, str) else json.dumps(text, indent=2), encoding="utf-8")
    return name


def problems(config: str | Mapping[str, object] | None = None, **environ: str) -> list[str]:
    return [str(problem) for problem in conclude(config, environ=environ).problems]


def settings(config: str | Mapping[str, object] | None = None, **environ: str) -> Settings:
    return load_settings(config, environ=environ)


@pytest.mark.fact("A1", "C7")
def test_nothing_given_is_the_local_log_on_the_known_ports() -> None:
    found = settings()
    assert (found.broker, found.port, found.key_port) == ("", 13579, 15379)
    assert (found.gateways, found.producers, found.consumers) == (1, 1, 1)
    assert (found.strategy, found.naming) == ("TopicBased", "legacy")


def test_defaults_of_the_table_are_those_of_the_struct() -> None:
    places = {"run_dir": "", "data_dir": ""}  # decided from the machine
    assert msgspec.structs.replace(settings(), **places) == Settings()


@pytest.mark.reference_test("HostStreamApiConfigurationShould: both configuration classes have the same properties")
def test_every_field_of_the_settings_has_exactly_one_key() -> None:
    several = {"security", "publisher_overrides", "consumer_overrides"}
    fields = sorted(key.setting for key in KEYS if key.setting)
    assert fields == sorted(field for field in Settings.__struct_fields__ if field not in several)


@pytest.mark.fact("C7")
def test_a_file_from_the_field_is_understood() -> None:
    conclusion = conclude(written(FIELD_FILE), environ=NOBODY)
    assert conclusion.problems == []
    assert conclusion.settings is not None
    assert (conclusion.settings.broker, conclusion.settings.domain) == ("kafka:9094", "POC")
    assert conclusion.settings.naming == "domain"
    assert "Serilog" not in "".join(conclusion.notes)
    assert any("GrpcConfig is not for this server" in note for note in conclusion.notes)
    assert any("PartitionMappings have no effect" in note for note in conclusion.notes)
    assert any(note.startswith("TerminationTimeoutSeconds has no effect") for note in conclusion.notes)
    assert not conclusion.settings.reflection and Settings().reflection


def test_flat_and_nested_files_are_the_same() -> None:
    flat = {"StreamCreationStrategy": 2, "BrokerUrl": "kafka:9092", "BatchingTimeMs": 20, "BatchingSizesKb": 64}
    assert settings(written(flat)) == settings(written({"StreamApiConfig": flat}))
    found = settings(flat)
    assert (found.batching_seconds, found.batching_bytes) == (0.02, 65536)


@pytest.mark.parametrize("strategy", [1, "1", "PartitionBased", "partitionbased", "PARTITION_BASED"])
def test_strategy_as_number_or_name(strategy: object) -> None:
    assert settings({"StreamCreationStrategy": strategy}).strategy == "PartitionBased"


def test_null_is_not_set() -> None:
    assert settings(written('{"BrokerUrl": null, "StreamApiPort": null, "Security": null}')).port == 13579


def test_every_spelling_of_a_name_is_understood() -> None:
    assert settings({"streamapiport": 1}).port == 1
    assert settings({"STREAM_API_PORT": 2}).port == 2
    assert settings({"prometheus_metric_port": 3}).status_port == 3
    assert settings({}, PROMETHEUS_METRIC_PORT="4").status_port == 4


def test_the_metrics_port_is_fixed_unless_the_servers_own_is_not() -> None:
    assert (settings({}).status_address, settings({}).status_port) == ("127.0.0.1", 10010)
    assert settings({"StreamApiPort": 0}).status_port == 0
    assert settings({"StreamApiPort": 0, "PrometheusMetricPort": 10010}).status_port == 10010


def test_numbers_and_switches_as_text() -> None:
    found = settings({"StreamApiPort": "5000", "BatchingResponses": "True", "SegmentBytes": "16 MiB"})
    assert (found.port, found.batching_responses, found.segment_bytes) == (5000, True, 16 << 20)


def test_file_then_environment_then_flags() -> None:
    file = written({"StreamApiPort": 1, "KeyGeneratorPort": 2, "Gateways": 3})
    environ = {"StreamApiConfig__KeyGeneratorPort": "20", "TRACKSIDE_GATEWAYS": "30"}
    conclusion = conclude(file, environ=environ, flags={"Gateways": "7", "Producers": None})
    assert conclusion.settings is not None
    assert (conclusion.settings.port, conclusion.settings.key_port, conclusion.settings.gateways) == (1, 20, 7)
    origins = {
        name: conclusion.values[name].origin for name in ("StreamApiPort", "KeyGeneratorPort", "Gateways", "Producers")
    }
    assert origins == {
        "StreamApiPort": "AppConfig.json:2",
        "KeyGeneratorPort": "environment StreamApiConfig__KeyGeneratorPort",
        "Gateways": "flag --gateways",
        "Producers": "default",
    }


def in_json(key: Key) -> tuple[str, object]:
    """Some allowed value that is not the default, as text, and what it becomes."""
    samples: dict[str, tuple[str, object]] = {
        "Brokers": ("kafka:1", "kafka:1"),
        "Endpoint": ("keys:1", "keys:1"),
        "Text": ("other", "other"),
        "Whole": ("3", 3),
        "Number": ("7", 7.0),
        "Bytes": ("128 KiB", 128 << 10),
        "Switch": ("false" if key.default else "true", not key.default),
        "CoreList": ("0", [0]),
        "Mappings": ("Engine=1", {"Engine": 1}),
        "Folder": ("/tmp/there", "/tmp/there"),
        "File": ("/tmp/there", "/tmp/there"),
        "Address": ("127.0.0.1", "127.0.0.1"),
    }
    if (names := getattr(key.kind, "names", None)) is not None:
        other = next(name for name in names if name != key.default)
        return other, other
    if key.name in ("SegmentBytes", "RetentionBytes"):
        return "16 MiB", 16 << 20
    if key.name == "PacketsPerMessage":
        return "20000", 20_000
    return samples[type(key.kind).__name__]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_can_stand_in_the_environment(key: Key) -> None:
    text, value = in_json(key)
    for variable in (key.section_variable, key.section_variable.upper(), *key.variables):
        assert conclude(environ={variable: text}).values[key.name].value == value, variable


@pytest.mark.parametrize("key", [key for key in KEYS if type(key.kind).__name__ not in ("Text",)], ids=lambda k: k.name)
@pytest.mark.parametrize("raw", [[], {"a": {}}, "", " ", -(10**30), float("inf"), "\x00", "1;2", "x" * 5000])
def test_nonsense_for_any_key_names_key_value_range_and_origin(key: Key, raw: object) -> None:
    if type(key.kind).__name__ in ("Brokers", "Endpoint", "Mappings", "Folder", "File") and raw in (
        "",
        " ",
        [],
        "x" * 5000,
        "1;2",
    ):
        return  # empty is a value there, and a path may look like anything
    member: object = raw
    for name in reversed(key.name.split(".")):
        member = {name: member}
    assert isinstance(member, dict)
    (problem,) = conclude(member, environ=NOBODY).problems
    assert (problem.key, problem.origin) == (key.name, "argument")
    assert key.kind.allowed in problem.reason
    assert problem.value or key.secret


def test_all_problems_are_told_with_their_lines() -> None:
    text = '{\n"StreamApiPort": 70000,\n"BrokerUrl": "kafka",\n"Gateways": 0,\n\n"Acknowledge": "Disk"}'
    assert problems(written(text)) == [
        f"BrokerUrl = 'kafka': 'kafka' is no HOST:PORT; must be {Brokers().allowed} (AppConfig.json:3)",
        "Acknowledge = 'Disk': must be one of Ring, Log (AppConfig.json:6)",
        "StreamApiPort = 70000: must be a whole number from 0 to 65535 (AppConfig.json:2)",
        "Gateways = 0: must be a whole number from 1 to 64 (AppConfig.json:4)",
    ]


def test_an_unknown_key_is_an_error_with_a_suggestion() -> None:
    assert problems(written('{\n"StreamApiPrt": 1}')) == [
        "StreamApiPrt = 1: unknown key; did you mean StreamApiPort? (AppConfig.json:2)"
    ]
    assert problems({"StreamApiConfg": {}}) == ["StreamApiConfg: unknown key; did you mean StreamApiConfig? (argument)"]
    assert problems({"Quux": 1}) == ["Quux = 1: unknown key (argument)"]
    assert problems(StreamApiConfig__BrokerUlr="x:1") == [
        "StreamApiConfig__BrokerUlr = 'x:1': unknown key; did you mean BrokerUrl? (environment)"
    ]


def test_a_key_beside_the_section_is_not_lost() -> None:
    (problem,) = problems({"StreamApiConfig": {}, "BrokerUrl": "kafka:9092"})
    assert problem.startswith("BrokerUrl = 'kafka:9092': stands beside StreamApiConfig, where nobody reads it")


def test_one_key_in_two_spellings_is_refused() -> None:
    (problem,) = problems({"StreamApiPort": 1, "streamApiPort": 2})
    assert "the same key stands there as StreamApiPort, too" in problem
    (problem,) = problems(TRACKSIDE_PORT="1", StreamApiConfig__StreamApiPort="2")
    assert "TRACKSIDE_PORT gives the same key another value" in problem
    assert settings(TRACKSIDE_PORT="1", StreamApiConfig__StreamApiPort="1").port == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("[]", "must be a JSON object"),
        ('{"Gateways": 1,}', "a comma in front of the closing bracket is not allowed in JSON"),
        ('{"Gateways": 1 // one\n}', "a comma or } is expected, not a comment, which JSON does not have"),
        ("{'Gateways': 1}", "a name in double quotes is expected"),
        ('{"Gateways": 1, "Gateways": 2}', "Gateways stands twice in this object, first in line 1"),
        ('{"Gateways": 01}', "a comma or } is expected"),
        ('{"Gateways": NaN}', "a value is expected"),
        ('{"Gateways": 1}}', "stands behind the end of the document"),
        ('{"Gateways": "1', "text in quotes is broken"),
        ('{"Gateways": ' + "[" * 1000, "nested deeper than 32 levels"),
    ],
)
def test_broken_json_says_what_and_where(text: str, said: str) -> None:
    (problem,) = problems(written(text))
    assert said in problem
    assert "AppConfig.json:1" in problem


def test_json_error_has_line_and_column() -> None:
    assert problems(written('{\n  "Gateways": 1\n  "Consumers": 1}'))[0].endswith(
        """a comma or } is expected, not '"' (AppConfig.json:3:3)"""
    )


def test_files_that_editors_on_windows_write() -> None:
    Path("AppConfig.json").write_bytes(b'\xef\xbb\xbf{\r\n"Gateways": 2\r\n}')
    assert settings("AppConfig.json").gateways == 2
    Path("AppConfig.json").write_text("{}", encoding="utf-16")
    assert "is UTF-16; save it as UTF-8" in problems("AppConfig.json")[0]


def test_a_file_is_found_as_operators_name_it(tmp_path: Path) -> None:
    Path("Configs").mkdir()
    written({"Gateways": 2}, "Configs/AppConfig.json")
    assert settings().gateways == 2, "where the reference server looks"
    assert settings(CONFIG_PATH="/Configs/AppConfig.json").gateways == 2, "appended to the working directory"
    assert settings(CONFIG_PATH=str(tmp_path / "Configs/AppConfig.json")).gateways == 2, "as it is"
    written({"Gateways": 3})
    assert settings(CONFIG_PATH="/Configs/AppConfig.json", TRACKSIDE_CONFIG="AppConfig.json").gateways == 3
    assert problems(CONFIG_PATH="/no/such.json") == [
        "configuration file = /no/such.json: there is no such file (environment CONFIG_PATH)"
    ]
    assert problems("gone.json") == ["configuration file = gone.json: there is no such file (flag --config)"]


@pytest.mark.parametrize("broker", ["kafka:9092", "a:1,b:2 , c:3", "[::1]:9092", "SASL_SSL://k.example.com:9093"])
def test_broker_addresses(broker: str) -> None:
    assert settings({"BrokerUrl": broker}).broker == broker.replace(" ", "")


@pytest.mark.parametrize(
    "broker",
    ["kafka", ":9092", "kafka:", "kafka:0", "kafka:65536", "a b:1", "a:1,,b:2", "http://a:1", "[::g]:1", "ö:1"],
)
def test_malformed_broker_addresses_are_refused(broker: str) -> None:
    (problem,) = problems({"BrokerUrl": broker})
    assert "HOST:PORT" in problem


def test_partition_mappings_in_every_form() -> None:
    rows = [{"Stream": "Engine", "Partition": 1}, {"stream": "Chassis", "partition": "2"}]
    wanted = {"Engine": 1, "Chassis": 2}
    assert settings({"StreamCreationStrategy": 1, "PartitionMappings": rows}).partition_mappings == wanted
    assert (
        settings(
            StreamApiConfig__StreamCreationStrategy="1",
            StreamApiConfig__PartitionMappings__0__Stream="Engine",
            StreamApiConfig__PartitionMappings__0__Partition="1",
            StreamApiConfig__PartitionMappings__1__Stream="Chassis",
            StreamApiConfig__PartitionMappings__1__Partition="2",
        ).partition_mappings
        == wanted
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"StreamCreationStrategy": 1, "PartitionMappings": {"A": 0}}, "stream A has partition 0, which is the main"),
        ({"StreamCreationStrategy": 1, "PartitionMappings": {"A": 1, "B": 1}}, "streams A and B share partition 1"),
        ({"PartitionMappings": {"A": 1}}, "mappings need StreamCreationStrategy"),
        ({"StreamApiPort": 15379}, "KeyGeneratorPort = 15379: is the port of the Stream API, too"),
        ({"PrometheusMetricPort": 13579}, "PrometheusMetricPort = 13579: is the port of the Stream API, too"),
        ({"PrometheusMetricPort": 15379}, "PrometheusMetricPort = 15379: is the port of the key generator, too"),
        ({"Security": {"SaslUsername": "u", "SaslPassword": "p"}}, "BrokerUrl: is empty, but Security is set"),
        ({"BrokerUrl": "a:1", "ForwardTo": "b:2"}, "ForwardTo = b:2: is set together with BrokerUrl"),
        ({"RetentionBytes": "32 MiB"}, "RetentionBytes = 32 MiB: must be at least two segments"),
        ({"ReaderBufferBytes": "64 KiB"}, "ReaderBufferBytes = 64 KiB: must be at least MaxPacketBytes"),
        ({"UseRemoteKeyGenerator": True}, "UseRemoteKeyGenerator = true: needs RemoteKeyGeneratorServiceAddress"),
        (
            {"UseRemoteKeyGenerator": True, "RemoteKeyGeneratorServiceAddress": "localhost:15379"},
            "RemoteKeyGeneratorServiceAddress = localhost:15379: is this server itself",
        ),
        ({"RunDir": "/tmp/one", "DataDir": "/tmp/one/"}, "RunDir = /tmp/one: is DataDir, too"),
        ({"RunDir": "/tmp/" + "x" * 100}, "it holds a Unix socket"),
    ],
)
def test_contradictions_are_refused_with_the_reason(config: dict[str, object], said: str) -> None:
    found = problems(config)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize("address", ["keys", "http://keys:15379", "keys:0", "a:1,b:2", "k%ys:1"])
def test_malformed_addresses_of_a_key_generator_are_refused(address: str) -> None:
    (problem,) = problems({"UseRemoteKeyGenerator": True, "RemoteKeyGeneratorServiceAddress": address})
    assert problem.startswith("RemoteKeyGeneratorServiceAddress = ") and "HOST:PORT" in problem


def test_a_key_generator_that_nobody_uses_is_noted() -> None:
    notes = conclude({"RemoteKeyGeneratorServiceAddress": "keys:15379"}, environ=NOBODY).notes
    assert any("no effect without UseRemoteKeyGenerator" in note for note in notes)


def test_contradictions_are_told_together_with_other_problems() -> None:
    assert len(problems({"StreamApiPort": 15379, "Gateways": 0, "BrokerUrl": "x"})) == 3


def test_free_ports_do_not_contradict() -> None:
    assert settings({"StreamApiPort": 0, "KeyGeneratorPort": 0}).port == 0


def test_places_in_their_order() -> None:
    systemd = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/lib/a"}
    found = settings(**systemd)
    assert (found.run_dir, found.data_dir) == ("/run/a", "/var/lib/a")
    assert settings({"RunDir": "/file"}, **systemd).run_dir == "/file"
    assert settings({"RunDir": "/file"}, **systemd, TRACKSIDE_RUN_DIR="/environment").run_dir == "/environment"
    assert settings().run_dir == f"/dev/shm/trackside-{os.getuid()}"
    assert settings().data_dir == os.path.expanduser("~/.local/state/trackside")
    assert settings({"DataDir": "here"}).data_dir == os.path.join(os.getcwd(), "here")


def test_cores_must_exist() -> None:
    core = min(os.sched_getaffinity(0))
    assert settings({"Cores": str(core)}).cores == [core]
    assert "core 4000 is not one that this process may use" in problems({"Cores": "4000"})[0]


def secured(**fields: str) -> Conclusion:
    return conclude({"BrokerUrl": "kafka:9093", "Security": fields}, environ=NOBODY)


def test_security_becomes_librdkafka_properties() -> None:
    Path("ca.pem").touch()
    conclusion = secured(
        Protocol="SASL_SSL", Mechanism="SCRAM-SHA-512", SaslUsername="u", SaslPassword="p", SslCaLocation="ca.pem"
    )
    assert conclusion.settings is not None
    assert conclusion.settings.security == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "p",
        "ssl.ca.location": "ca.pem",
    }


def test_security_is_off_until_it_names_somebody() -> None:
    conclusion = secured(Protocol="PLAINTEXT", SaslPassword="p")
    assert conclusion.settings is not None
    assert conclusion.settings.security == {}


def test_security_defaults_are_those_of_the_reference() -> None:
    conclusion = secured(SaslUsername="u", SaslPassword="p")
    assert conclusion.settings is not None
    assert conclusion.settings.security["security.protocol"] == "SASL_PLAINTEXT"
    assert conclusion.settings.security["sasl.mechanism"] == "PLAIN"


def test_environment_wins_in_the_security_section() -> None:
    file = written({"BrokerUrl": "kafka:9093", "Security": {"SaslUsername": "file", "SaslPassword": "p"}})
    found = settings(file, StreamApiConfig__Security__SaslUsername="environment")
    assert found.security["sasl.username"] == "environment"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"SaslUsername": "u"}, "Security.SaslPassword: is empty, and Security.SaslUsername needs one"),
        ({"SaslUsername": "u", "SaslPassword": "p", "Protocol": "Plaintext"}, "sends no user name"),
        ({"SslCaLocation": "no.pem"}, "Security.SslCaLocation = no.pem: there is no such file"),
        ({"SslCertificateLocation": "c.pem"}, "a certificate and Security.SslKeyLocation go together"),
        ({"Protocol": "SaslSssl"}, "must be one of Plaintext, Ssl, SaslPlaintext, SaslSsl"),
        ({"SaslUser": "u"}, "Security.SaslUser: unknown key; did you mean Security.SaslUsername?"),
    ],
)
def test_security_that_cannot_work_is_refused(fields: dict[str, str], said: str) -> None:
    found = [str(problem) for problem in secured(**fields).problems]
    assert any(said in problem for problem in found), found


def test_no_secret_is_ever_shown() -> None:
    Path("AppConfig.json").write_text(
        '{"StreamApiConfig": {"BrokerUrl": "k:1", "Security": {"SaslUsername": "u", "SaslPassword": "hunter2", '
        '"SaslPasword": "hunter2", "saslpassword": "hunter2", "SslKeyPassword": ["hunter2"]}}, '
        '"Security": {"SaslPassword": "hunter2"}}'
    )
    environ = {"TRACKSIDE_SECURITY_SASL_PASSWORD": "hunter2", "StreamApiConfig__Security__SaslPassword": "hunter22"}
    conclusion = conclude("AppConfig.json", environ=environ)
    assert len(conclusion.problems) >= 4
    assert "hunter" not in config_pages.as_table(conclusion) + config_pages.as_json(conclusion)
    assert "(set)" in config_pages.as_table(conclusion)


def overrides(**environ: str) -> Conclusion:
    return conclude({"BrokerUrl": "k:1"}, environ=environ)


def test_override_files_in_the_working_directory() -> None:
    written(
        {"linger.ms": 20, "socket.keepalive.enable": True, "metadata.broker.list": "x:1"}, "kafka-publisher-broker.json"
    )
    written({"session.timeout.ms": "6000", "group.id": "g"}, "readers.json")
    conclusion = overrides(StreamApiConfig__KafkaBrokerConsumingConfigFilePath="readers")
    assert conclusion.settings is not None
    assert conclusion.settings.publisher_overrides == {"linger.ms": "20", "socket.keepalive.enable": "true"}
    assert conclusion.settings.consumer_overrides == {"session.timeout.ms": "6000"}
    assert sum("is never taken from an override file" in note for note in conclusion.notes) == 2


def test_override_files_mean_nothing_without_a_broker() -> None:
    written("no json", "kafka-publisher-broker.json")
    assert settings().publisher_overrides == {}


def test_an_override_that_breaks_a_promise_is_used_and_said() -> None:
    written({"acks": "1", "linger.ms": "1"}, "kafka-publisher-broker.json")
    conclusion = overrides()
    assert conclusion.settings is not None
    assert conclusion.settings.publisher_overrides["acks"] == "1"
    (note,) = conclusion.notes
    assert note.startswith("acks = 1 breaks promise 2")


@pytest.mark.parametrize(
    ("rules", "taken"),
    [
        ([], {"linger.ms", "batch.size", "acks"}),
        ([{"Pattern": "linger.*", "Allow": True}], {"linger.ms"}),
        ([{"Pattern": "LINGER.?S", "Allow": True}, {"Pattern": "linger.*", "Allow": False}], {"linger.ms"}),
        ([{"Pattern": "acks", "Allow": False}, {"Pattern": "*", "Allow": True}], {"linger.ms", "batch.size"}),
        ([{"Pattern": "linger", "Allow": True}], set()),
    ],
)
def test_the_first_rule_of_the_whitelist_that_matches_decides(rules: list[object], taken: set[str]) -> None:
    written({"linger.ms": "1", "batch.size": "2", "acks": "all"}, "kafka-publisher-broker.json")
    written({"Publish": rules}, "kafka-broker-whitelist.json")
    conclusion = overrides()
    assert conclusion.settings is not None
    assert set(conclusion.settings.publisher_overrides) == taken
    assert sum("is denied by" in note for note in conclusion.notes) == 3 - len(taken)


def test_a_whitelist_of_many_stars_is_decided_all_the_same() -> None:
    """Tried star by star it would take longer than anybody waits."""
    written({"a" * 90: "1"}, "kafka-publisher-broker.json")
    written({"Publish": [{"Pattern": "*a" * 30 + "b", "Allow": True}]}, "kafka-broker-whitelist.json")
    (note,) = [note for note in overrides().notes if "is denied by" in note]
    assert note.startswith("aaa")


@pytest.mark.parametrize("name", ["x" * 10_000, "a\nb", "\x1b[2J"])
@pytest.mark.parametrize("text", ["{{{}: [1]}}", "{{{} 1}}", "{{{0}: 1, {0}: 2}}"])
def test_a_strange_name_is_told_in_a_line(name: str, text: str) -> None:
    written(text.format(json.dumps(name)), "kafka-publisher-broker.json")
    (problem,) = map(str, overrides().problems)
    assert len(problem) < 500 and problem.isprintable()
    (problem,) = problems({name: 1})
    assert len(problem) < 500 and problem.isprintable() and "unknown key" in problem


def test_a_number_of_very_many_digits_is_told() -> None:
    written('{"linger.ms": ' + "1" * 5000 + "}", "kafka-publisher-broker.json")
    (problem,) = map(str, overrides().problems)
    assert "a number of 5000 characters; at most 1000 are taken" in problem


def test_broken_override_files_are_refused() -> None:
    written({"linger.ms": [1]}, "kafka-publisher-broker.json")
    written("{", "kafka-consumer-broker.json")
    written({"Publish": [{"Pattern": 1}]}, "kafka-broker-whitelist.json")
    found = [str(problem) for problem in overrides().problems]
    assert len(found) == 3, found


def test_a_slip_in_our_own_variables_is_noted() -> None:
    (note,) = conclude(environ={"TRACKSIDE_BROKR": "x:1", "TRACKSIDE_REQUIRE_KAFKA": "1"}).notes
    assert note == "environment TRACKSIDE_BROKR is read by nobody; did you mean TRACKSIDE_BROKER?"


def test_errors_reach_programs_as_one_exception() -> None:
    with pytest.raises(ConfigError) as caught:
        settings({"Gateways": 0, "Consumers": 0})
    assert [problem.key for problem in caught.value.problems] == ["Gateways", "Consumers"]
    assert str(caught.value).count("\n") == 1


def test_no_name_in_the_table_stands_for_two_keys() -> None:
    variables = [variable.lower() for key in KEYS for variable in key.variables]
    assert len(set(variables)) == len(variables)
    assert len(config_keys.BY_SPELLING) == len(KEYS)
    flags = [key.flag for key in KEYS if key.flag]
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize("key", [key for key in KEYS if key.default is not None], ids=lambda key: key.name)
def test_every_default_is_allowed(key: Key) -> None:
    assert key.kind.parse(key.default) == key.default


def warnings(**environ: str) -> list[str]:
    conclusion = conclude({}, environ={f"TRACKSIDE_{name}": value for name, value in environ.items()})
    assert not conclusion.problems
    return conclusion.warnings


REMOTE = {"UseRemoteKeyGenerator": True, "RemoteKeyGeneratorServiceAddress": "keys:15379"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"CertificateFile": "server.pem"},
            "CertificateFile = {}/server.pem: goes together with {key}, which is empty",
        ),
        ({"KeyFile": "server.key"}, "KeyFile = {}/server.key: goes together with {certificate}, which is empty"),
        ({"CertificateFile": "server.pem", "KeyFile": "server.key"}, "CertificateFile = {}/server.pem: has no meaning"),
        ({"AuthorityFile": "server.key"}, "AuthorityFile = {}/server.key: {}/server.key: holds no certificate"),
        ({"AuthorityFile": "nowhere"}, "AuthorityFile = {}/nowhere: {}/nowhere: cannot be read: No such file"),
        ({"TokenFile": "empty"}, "TokenFile = {}/empty: {}/empty: wanted one token"),
        (
            {"AuthorityFile": "authority.pem", "CertificateFile": "server.pem", "KeyFile": "empty"},
            "KeyFile = {}/empty: {}/empty: holds no private key",
        ),
    ],
)
def test_files_for_the_remote_key_generator(tmp_path: Path, given: dict[str, str], says: str) -> None:
    folder = TlsFiles(tmp_path / "tls").folder
    (folder / "empty").touch()
    section = {name: str(folder / value) for name, value in given.items()}
    (problem,) = problems({**REMOTE, "RemoteKeyGenerator": section})
    names = {name: f"RemoteKeyGenerator.{name.capitalize()}File" for name in ("key", "certificate")}
    assert problem.startswith("RemoteKeyGenerator." + says.replace("{}", str(folder)).format(**names))


def test_a_token_in_plain_text_and_files_without_a_use_are_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    section = {"TokenFile": str(tmp_path / "token")}
    found = conclude({**REMOTE, "ListenAddress": "127.0.0.1", "RemoteKeyGenerator": section}, environ=NOBODY)
    assert [warning for warning in found.warnings if "sent in plain text" in warning] and not found.problems
    assert "s3cret" not in repr(found)
    notes = conclude({"RemoteKeyGenerator": section}, environ=NOBODY).notes
    assert "RemoteKeyGenerator.TokenFile has no effect without UseRemoteKeyGenerator" in notes


def test_a_secret_that_everybody_may_read_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = TlsFiles(tmp_path / "tls")
    own = {name.removeprefix("TRACKSIDE_"): value for name, value in files.settings(mutual=True).items()}
    files.key.chmod(0o644)
    assert warnings(**own) == [], "its folder is closed"
    monkeypatch.setattr("trackside.data_plane.small_file.stat.S_IXOTH", 0o100)  # pytest's own folders are closed, too
    assert warnings(**own) == [f"Tls.KeyFile: everybody on this machine may read {files.key}; chmod o-r"]
    files.key.chmod(0o640)
    assert warnings(**own) == []


@pytest.mark.parametrize("name", ["certificate", "authority"])
def test_comments_between_certificates_may_be_in_any_language(tmp_path: Path, name: str) -> None:
    files = TlsFiles(tmp_path / "tls")
    path: Path = getattr(files, name)
    path.write_bytes("# für Jürgen €\n".encode() + path.read_bytes() + b"\xff\xfe\n")
    own = {name.removeprefix("TRACKSIDE_"): value for name, value in files.settings(mutual=True).items()}
    assert warnings(**own) == []


def test_who_listens_for_the_network_is_warned(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "tls")
    own = {name.removeprefix("TRACKSIDE_"): value for name, value in files.settings(mutual=True).items()}
    assert warnings(LISTEN="127.0.0.1") == warnings(LISTEN="::1") == warnings(**own) == []
    (everything,) = warnings()
    assert everything.startswith(
        "ListenAddress 0.0.0.0 without TLS and tokens: who reaches that network may read, write"
    )
    del own["TLS_CLIENT_AUTHORITY_FILE"]
    (encrypted,) = warnings(LISTEN="192.0.2.1", **own)
    assert encrypted.startswith("ListenAddress 192.0.2.1 without tokens: who reaches that network may read, write")


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("TLS_KEY_FILE", "Tls.CertificateFile = {folder}/server.pem: needs Tls.KeyFile, which is empty"),
        ("TLS_CERTIFICATE_FILE", "Tls.KeyFile = {folder}/server.key: has no meaning without Tls.CertificateFile"),
    ],
)
def test_half_of_a_pair_is_refused(tmp_path: Path, left_out: str, says: str) -> None:
    files = TlsFiles(tmp_path / "tls")
    environ = files.settings()
    del environ[f"TRACKSIDE_{left_out}"]
    (problem,) = conclude({}, environ=environ).problems
    assert str(problem).startswith(says.format(folder=files.folder))


def test_an_expired_certificate_is_warned_of_and_used(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "tls")
    files.issue(days=(-3, -1))
    own = {name.removeprefix("TRACKSIDE_"): value for name, value in files.settings(mutual=True).items()}
    assert warnings(**own) == [f"Tls: clients will not take {files.certificate}: certificate has expired"]


def test_keys_of_a_section_stand_inside_it_in_a_file(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "tls")
    section = {"CertificateFile": str(files.certificate), "key_file": str(files.key)}
    assert settings({"StreamApiConfig": {"tls": section}}).tls_key == str(files.key)
    (problem,) = conclude({"Tls": "on"}, environ=NOBODY).problems
    assert str(problem) == "Tls = 'on': must be a JSON object {...} (argument)"
