"""Bodies and filters are read as Go's encoding/json and protojson read them."""

import pytest

from workshop.sandbox.pipelines_api import schemas
from workshop.sandbox.pipelines_api.protojson import ProtoError, read_body, read_text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("null", "proto: syntax error (line 1:1): unexpected token null"),
        ('"x"', 'proto: syntax error (line 1:1): unexpected token "x"'),
        ("{'display_name': 'x'}", r"invalid character '\'' looking for beginning of object key string"),
        ('{"display_name": NaN}', "invalid character 'N' looking for beginning of value"),
        ('{"display_name": "x"', "unexpected EOF"),
        ('{"display_name" "x"}', "invalid character '\"' after object key"),
        ('{"display_name": "x" 1}', "invalid character '1' after object key:value pair"),
        ('{"display_name": tru}', "invalid character '}' in literal true (expecting 'e')"),
        ('{"display_name": [1 2]}', "invalid character '2' after array element"),
        ('\ufeff{"display_name": "x"}', "invalid character 'ï' looking for beginning of value"),
        ('{"display_name": "x", "foo": 1}', 'proto: (line 1:23): unknown field "foo"'),
        ('{"display_name": "x",\n "foo": 1}', 'proto: (line 2:2): unknown field "foo"'),
        ('{"display_name":"a","displayName":"b"}', 'proto: (line 1:21): duplicate field "displayName"'),
        ('{"display_name": 5}', "proto: (line 1:18): invalid value for string field displayName: 5"),
        ('{"display_name": {}}', "proto: (line 1:18): invalid value for string field displayName: {"),
        ('{"storage_state": "GONE"}', 'proto: (line 1:19): invalid value for enum field storageState: "GONE"'),
        ('{"created_at": "yesterday"}', 'proto: (line 1:16): invalid google.protobuf.Timestamp value "yesterday"'),
        ('{"created_at": 5}', "proto: syntax error (line 1:16): unexpected token 5"),
        ('{"display_name": "a \\ud800"}', "proto: unexpected EOF"),
    ],
)
def test_a_wrong_body_is_refused_in_the_words_of_the_server(body, said):
    with pytest.raises(ProtoError) as refused:
        read_body(body.encode(), schemas.EXPERIMENT)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b"", {}),
        (b"  ", {}),
        (b'{"display_name": "x"} and more', {"display_name": "x"}),
        (b'{"displayName": "x", "description": null}', {"display_name": "x"}),
        (b'{"storage_state": 9}', {"storage_state": 9}),
    ],
)
def test_a_body_that_the_server_accepts_is_read(body, read):
    assert read_body(body, schemas.EXPERIMENT) == read


@pytest.mark.parametrize("number", ["5", '"5"', "5.0", "0.5e1"])
def test_a_whole_number_may_be_written_in_many_ways(number):
    body = f'{{"trigger": {{"periodicSchedule": {{"intervalSecond": {number}}}}}}}'
    read = read_body(body.encode(), schemas.RECURRING_RUN)
    assert read == {"trigger": {"periodic_schedule": {"interval_second": 5}}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"max_concurrency": 1.5}', "invalid value for int64 field maxConcurrency: 1.5"),
        ('{"max_concurrency": 9223372036854775808}', "invalid value for int64 field maxConcurrency"),
        ('{"no_catchup": "true"}', 'invalid value for bool field noCatchup: "true"'),
        ('{"pipeline_spec": [1]}', "unexpected token ["),
        ('{"pipeline_spec": {"a": 1, "a": 2}}', 'duplicate map key "a"'),
        ('{"pipeline_spec": {}, "pipeline_version_reference": {}}', "pipeline_source is already set"),
        ('{"trigger": {"cron_schedule": {}, "periodic_schedule": {}}}', "Trigger.trigger is already set"),
        ('{"runtime_config": {"parameters": {"a": ' + "[" * 5_000 + "]" * 5_000 + "}}}", "nested deeper"),
        ('{"runtime_config": {"parameters": {"a": 1' + "0" * 400 + "}}}", "is too large"),
    ],
)
def test_a_wrong_field_of_a_recurring_run_is_named(body, said):
    with pytest.raises(ProtoError) as refused:
        read_body(body.encode(), schemas.RECURRING_RUN)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "proto: unexpected EOF"),
        ("x", "proto: syntax error (line 1:1): invalid value x"),
        ("{} {}", "proto: syntax error (line 1:4): unexpected token {"),
        ('{"predicates": [{"operation": "EQUALS", "foo": 1}]}', 'proto: (line 1:41): unknown field "foo"'),
    ],
)
def test_a_filter_must_be_one_message(text, said):
    with pytest.raises(ProtoError) as refused:
        read_text(text, schemas.FILTER)
    assert str(refused.value) == said
