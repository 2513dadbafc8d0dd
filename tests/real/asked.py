"""What is asked of a real server, by the tests and by the page that shows its answers."""

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STOP = ["\nUser:"]
PLAIN = {"messages": QUESTION, "max_tokens": 24, "temperature": 0, "stop": STOP}
ENDLESS = {"messages": QUESTION, "max_tokens": 1500, "temperature": 0, "extra_body": {"ignore_eos": True}}
"""For the official client: what a server needs many seconds for."""
LONG = [{"role": "user", "content": "word " * 5000}]
"""Longer than any context that the launchers ask for."""

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
    "additionalProperties": False,
}
CHOICE = {
    "vllm": {"structured_outputs": {"choice": ["red", "blue"]}},
    "sglang": {"regex": "(red|blue)"},
    "llamacpp": {"grammar": 'root ::= "red" | "blue"'},
}
"""What each server calls a constraint that OpenAI has no name for."""

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}
# A base model calls a function only if it has just seen that done.
CONVERSATION = [
    {"role": "user", "content": "What is the weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_a", "content": "Sunny."},
    {"role": "assistant", "content": "It is sunny in Rome."},
    {"role": "user", "content": "What is the weather in Paris?"},
]
TOOLS = {**PLAIN, "messages": CONVERSATION, "max_tokens": 60, "tools": [TOOL], "parallel_tool_calls": False}

PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""An image that every decoder reads, of one pixel."""
PICTURE = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
    }
]
