"""Actors: long-lived tasks that each own one model or one remote server, and how requests reach them.

`call` is one request on its way, `inbox` an actor's bounded mailbox, `ref` the outside of an actor, `supervisor` what
restarts it, `backend` what a framework offers, `directory` how a request finds its actor.
"""
