"""Log lines as text and JSON."""

import json
import logging

import pytest

from illm.log import JSONFormatter, configure


@pytest.fixture
def illm_logger():
    logger = logging.getLogger("illm")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def record(message, **more):
    made = logging.LogRecord("illm.test", logging.WARNING, __file__, 1, message, (), more.pop("exc_info", None))
    vars(made).update(more)
    return made


def test_a_json_line_has_time_level_logger_and_message():
    line = json.loads(JSONFormatter().format(record("hello\nworld")))
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "illm.test", "message": "hello\nworld"}


def test_a_record_s_own_fields_stand_beside_the_common_ones():
    line = json.loads(JSONFormatter().format(record("text form", illm={"status": 200, "model": "demo"})))
    assert (line["status"], line["model"], "message" in line) == (200, "demo", False)


def test_a_traceback_is_one_field_of_one_line():
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        shown = JSONFormatter().format(record("oh", exc_info=(type(error), error, error.__traceback__)))
    assert "\n" not in shown
    assert "ZeroDivisionError" in json.loads(shown)["traceback"]


@pytest.mark.parametrize("value", ["\udcff", 2**70, {1: object()}])
def test_what_json_has_no_form_for_is_logged_all_the_same(value):
    shown = JSONFormatter().format(record("x", illm={"value": value}))
    assert "value" in json.loads(shown)
    shown.encode()


@pytest.mark.parametrize(("form", "start"), [("json", "{"), ("text", "2")])
def test_configured_twice_it_logs_once_to_standard_error(illm_logger, capsys, form, start):
    configure(form, "debug")
    configure(form, "warning")
    logging.getLogger("illm.test").warning("once")
    logging.getLogger("illm.test").info("not shown")
    said = capsys.readouterr().err
    assert said.startswith(start)
    assert said.count("\n") == 1
