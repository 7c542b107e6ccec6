"""The site's Flower ClientApp: what comes is handed to :mod:`client.rounds.exchange`, what it says goes back.

The node's configuration (given by the site, never by the centre) names ``site-folder`` and optionally ``device``,
``threads`` and ``stacked``. No exception's text leaves. Nothing that trains is imported here: a plan is answered
without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.rounds import exchange, sum_exchange
from client.rounds.exchange import Compute

app = ClientApp()


@app.query("plan")
def plan(message: Message, context: Context) -> Message:
    """Consider a campaign's plan."""
    return Message(exchange.answer_plan(_folder(context), message.content), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one group of networks for one round."""
    reply = exchange.answer_train(_folder(context), message.content, _compute(context))
    return Message(reply, reply_to=message)


@app.train("sum")
def sum_(message: Message, context: Context) -> Message:
    """Answer one phase of a secure sum."""
    reply = sum_exchange.answer_sum(_folder(context), message.content, _compute(context))
    return Message(reply, reply_to=message)


@app.query("ensemble")
def ensemble(message: Message, context: Context) -> Message:
    """Take the ensemble that a finished campaign left."""
    return Message(exchange.answer_ensemble(_folder(context), message.content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Grade held-out patients with an ensemble, and tell what came of it as tables."""
    reply = exchange.answer_evaluate(_folder(context), message.content, _compute(context))
    return Message(reply, reply_to=message)


def _compute(context: Context) -> Compute:
    return Compute(
        device=str(context.node_config.get("device", "auto")),
        threads=int(context.node_config.get("threads", 0)),
        stacked=cast(bool | None, context.node_config.get("stacked")),
    )


def _folder(context: Context) -> Path:
    return Path(str(context.node_config["site-folder"]))
