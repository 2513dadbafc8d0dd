"""The ASGI application: from a request's bytes to an actor, and from its events back to bytes.

`app` dispatches, `routes` is the one table, `exchange` one request and its response, `relay` the pump from a reply to
the client, `runtime` what keeps the actors running; then one handler file a family.
"""
