"""Images and sound on their way to a strict vLLM or SGLang: by the official client, over real sockets."""

from base64 import b64encode
from functools import partial
from urllib.parse import urlsplit

import pytest
from media.pictures import data_url, part, png

from backends.remote.fake_server import fake_server, response
from backends.remote.openai_gateway import LEFT_BEHIND, TEXT, TOOL, WAV, chat, gateway, openai, transcribe

pytestmark = [pytest.mark.anyio, LEFT_BEHIND]


async def test_images_arrive_whole_and_from_here(server):
    async with fake_server(probe=[response(png())]) as elsewhere:
        port = urlsplit(elsewhere.url).port
        async with gateway(server, allow_image_hosts=("127.0.0.1",), allow_image_ports=(port,)) as client:
            ways = [part(image) for url in (data_url(png()), elsewhere.url) for image in (url, {"url": url})]
            bare = data_url(png()).partition(",")[2]
            ways += [part({"url": elsewhere.url, "detail": "low"}), {"type": "image_base64", "image_base64": bare}]
            for image in ways:
                content = [{"type": "text", "text": "What?"}, image]
                await chat(client, messages=[{"role": "user", "content": content}])
                assert server.body["messages"][0]["content"][1] == part({"url": data_url(png())})
        assert elsewhere.probes == 3
    assert server.noticed.images == [png()] * 6


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "http://169.254.169.254/latest", "ftp://x/y"])
async def test_no_address_gets_past_the_gateway(client, server, url):
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(client, messages=[{"role": "user", "content": [part({"url": url})]}])
    assert caught.value.param.startswith("messages[0].content[0]")
    assert server.requests == []


async def test_what_its_model_cannot_do_is_a_capability(client, server, kind):
    server.sees = server.parses_tools = server.hears = False
    asked = [partial(chat, client, messages=[{"role": "user", "content": [part({"url": data_url(png())})]}])]
    asked += [partial(chat, client, tools=[TOOL])] if kind == "vllm" else []
    asked += [partial(transcribe, client), partial(client.embeddings.create, model="m1", input="a")]
    for ask in asked:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await ask()
        assert caught.value.type == "CapabilityNotSupported"
        assert kind in caught.value.message


async def test_speech_is_written_down(client, server):
    assert (await transcribe(client, language="en", temperature=0)).text == TEXT
    assert server.noticed.sounds == [WAV]
    assert server.body | {"file": WAV} == {
        "file": WAV,
        "model": "m1",
        "language": "en",
        "temperature": "0.0",
        "response_format": "json",
    }
    assert await transcribe(client, response_format="text") == TEXT
    assert "00:00:00,000 --> 00:00:03,500" in await transcribe(client, response_format="srt")
    assert (await transcribe(client, response_format="vtt")).startswith("WEBVTT")
    told = await transcribe(client, response_format="verbose_json", timestamp_granularities=["segment"])
    assert (told.duration, told.language, told.segments[0].end) == (3.5, "en", 3.5)


async def test_what_it_does_not_heed_in_speech_is_said(client, server, kind):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await transcribe(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert (caught.value.type, caught.value.param) == ("CapabilityNotSupported", "timestamp_granularities")
    if kind == "vllm":
        assert (await transcribe(client, prompt="Names: Hello")).text == TEXT
        assert server.body["prompt"] == "Names: Hello"
    else:
        with pytest.raises(openai.BadRequestError) as caught:
            await transcribe(client, prompt="Names: Hello")
        assert caught.value.param == "prompt"


async def test_speech_is_written_down_in_a_stream(client, server, kind):
    events = [event async for event in await transcribe(client, stream=True)]
    assert [event.type for event in events] == ["transcript.text.delta"] * 4 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == TEXT
    assert (events[-1].usage is not None) == (kind == "vllm")  # SGLang counts nothing there


async def test_sound_in_a_chat(client, server):
    sound = {"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}}
    await chat(client, messages=[{"role": "user", "content": [sound]}])
    assert server.noticed.sounds == [WAV]
