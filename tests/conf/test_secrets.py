"""Passwords do not get through, wherever a configuration may hold them."""

import pytest

from conf.schema import Config
from conf.secrets import MASK, digest_of, masked, masked_override, redacted, without_secrets
from reporting.commands import Commands

SECRET = "hunter2"


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "dbPassword",
        "PWD",
        "client_secret",
        "sasToken",
        "fs.s3a.secret.key",
        "fs.s3a.access.key",
        "Authorization",
        "credentials",
    ],
)
def test_options_are_masked_by_name(key: str) -> None:
    kept = {"format": "csv", "options": {"sep": ";", "header": True, key: SECRET}}
    assert masked({"source": {"users": kept}}) == {
        "source": {"users": {"format": "csv", "options": {"sep": ";", "header": True, key: MASK}}}
    }


@pytest.mark.parametrize(
    "url",
    [
        f"s3://anna:{SECRET}@bucket/log",
        f"https://lake/log?sig={SECRET}&v=1",
        f"jdbc:postgresql://host/db?user=anna&password={SECRET}",
        f"jdbc:sqlserver://host;password={SECRET};encrypt=true",
        f"s3a://AKIA:{SECRET}/with/slashes@bucket/log",
        f"wasbs://logs:{SECRET}@account/log",
        f"https://{SECRET}@host/log",
    ],
)
def test_urls_lose_what_gives_access(url: str) -> None:
    assert SECRET not in str(masked({"path": [url]}))
    assert "lo" in str(masked({"path": [url]})) or "host" in str(masked({"path": [url]}))


@pytest.mark.parametrize(
    "value",
    [
        {"keys": {"user": "u"}, "label": "key = 1", "path": "/data/a?b*.csv", "n": [1, None]},
        "s3://lake/log/key=2024-12-01",  # of two such folders neither may be taken for the other
        "abfss://clicks@account.dfs.core.windows.net/log",
        "hdfs://host:9000/log/a@b",
    ],
)
def test_other_values_stay(value: object) -> None:
    assert masked(value) == value


def config_with(secret: str) -> Config:
    options = {"sep": ";", "password": secret}
    lake = f"s3://anna:{secret}@lake"
    return Config.model_validate(
        {
            "source": {
                "interactions": {"format": "csv", "path": f"{lake}/log", "options": options},
                "items": {"format": "delta", "path": f"{lake}/items"},
            },
            "label": "url = 'http://me@home?key=1'",
            "keys": {"user": "u", "item": "i"},
            "fields": [
                {"name": name, "side": name, "expr": name[0], "encode": "index"}
                for name in ("user", "item")
            ],
            "score": {"candidates": {"format": "csv", "path": "c.csv", "options": options}},
            "tables": {"root": f"{lake}/tables", "models": "models"},
        }
    )


def test_a_configuration_is_kept_without_secrets() -> None:
    config = config_with(SECRET)
    kept = without_secrets(config)
    assert SECRET not in kept.model_dump_json()
    assert kept.model_fields_set == config.model_fields_set
    assert (kept.label, kept.fields, kept.train) == (config.label, config.fields, config.train)
    assert kept.source.interactions.options == {"sep": ";", "password": MASK}
    assert Config.model_validate_json(kept.model_dump_json()) == kept


def test_a_digest_tells_nothing_of_secrets() -> None:
    assert digest_of(config_with(SECRET)) == digest_of(config_with("another"))
    other = config_with(SECRET).model_copy(update={"label": "1"})
    assert digest_of(config_with(SECRET)) != digest_of(other)


def test_messages_are_redacted() -> None:
    said = f"cannot open https://anna:{SECRET}@host/x?sig={SECRET} with {SECRET}, key = 1"
    assert redacted(said, config_with(SECRET)) == (
        f"cannot open https://{MASK}@host/x?sig={MASK} with {MASK}, key = 1"
    )
    assert redacted("field u: key = 1") == "field u: key = 1"


@pytest.mark.parametrize(
    "override",
    [
        f"source.interactions.options.password={SECRET}",
        f"source.interactions.options={{password: {SECRET}}}",
        f"source.users={{format: csv, path: x, options: {{token: {SECRET}}}}}",
        f"source.users.path=s3://anna:{SECRET}@bucket/x",
        f"score.candidates.options.secretKey={SECRET}",
        f"source.users.options.token.x={SECRET}",
        f"source.users.options={{password: {SECRET}",
    ],
)
def test_overrides_are_masked(override: str) -> None:
    assert SECRET not in masked_override(override)
    assert masked_override(override).startswith(override.partition("=")[0] + "=")
    commands = Commands("conf/a.yaml", (override, "train.epochs=3"))
    for job in ("prepare", "train", "evaluate", "score"):
        assert SECRET not in commands.of(job)
        assert "train.epochs=3" in commands.of(job)


def test_commands_leave_the_reports_own_keys_out() -> None:
    commands = Commands("conf/a.yaml", ("report.users=9", "train.seed=4"))
    assert commands.of("train") == "python jobs/train.py conf/a.yaml train.seed=4"
    assert commands.of("train", "model.name=fm", ranks=2) == (
        "horovodrun -np 2 python jobs/train.py conf/a.yaml train.seed=4 model.name=fm"
    )
    assert commands.of("score").startswith("spark-submit --properties-file conf/spark.conf jobs/")


def test_the_schema_has_options_nowhere_else() -> None:
    """What is masked by name stands below a key `options`: a new free mapping needs a look."""
    schema = Config.model_json_schema()
    free = {
        f"{section}.{name}"
        for section, content in schema["$defs"].items()
        for name, field in content["properties"].items()
        if "$ref" not in field.get("additionalProperties", {"$ref": ""})
    }
    assert free == {"Table.options", "ScoreConfig.context", "Context.values"}
