"""The chat template of models that bring none."""

# What a base model has seen most of in its training: a dialogue in plain words.
FALLBACK = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# A base model goes on with the dialogue and plays every part in it.
FALLBACK_STOPS = ("\nUser:", "\nAssistant:", "\nSystem:")
