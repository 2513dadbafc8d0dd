"""`GET /info`: what a client of TGI's may want to know about the model and its limits."""

import orjson

from illm.dialects.tgi.requests import MAX_BEST_OF, MAX_STOPS


def info_body(*, model: str, context: int | None, concurrent: int, version: str) -> bytes:
    """Encode the answer.

    Args:
        model: its name.
        context: tokens that prompt and answer may have together, where known.
        concurrent: how many requests are admitted at once.
        version: this gateway's.
    """
    return orjson.dumps(
        {
            "model_id": model,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": concurrent,
            "max_best_of": MAX_BEST_OF,
            "max_stop_sequences": MAX_STOPS,
            "max_input_tokens": None if context is None else context - 1,
            "max_total_tokens": context,
            "validation_workers": 1,
            "max_client_batch_size": 1,
            # What it is by its protocol; what it is by itself is in the next two.
            "router": "text-generation-router",
            "version": f"illm-{version}",
            "sha": None,
            "docker_label": None,
        }
    )
