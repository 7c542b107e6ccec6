"""The site's Flower ClientApp: unpack a message, make one call, pack the reply.

The node's configuration (given by the site, never by the centre) names ``site-folder`` and optionally
``device`` and ``threads``. No exception's text leaves: what went wrong stands in the site's own ``log.txt``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import chain, node, receipts
from client.log import site_log
from client.site import Site
from common import wire
from common.errors import SynofedError

app = ClientApp()


@app.query("plan")
def plan(message: Message, context: Context) -> Message:
    """Consider a campaign's plan."""

    def answer(site: Site) -> RecordDict:
        request = wire.decode_plan_request(message.content)
        record = wire.encode_plan_reply(node.consider_plan(site, request))
        return wire.with_receipt(record, receipts.of_consent(site, request, wire.contents(record)))

    return Message(_answer(context, answer), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one group of networks for one round."""

    def answer(site: Site) -> RecordDict:
        request = wire.decode_train_request(message.content)
        reply = node.train(site, request, device=_device(context))
        if isinstance(reply, wire.MissingWeights):
            return wire.encode_missing_weights(reply)
        record = wire.encode_train_reply(reply, encoding=request.encoding)
        return wire.with_receipt(record, receipts.of_reply(site, request, wire.contents(record)))

    return Message(_answer(context, answer), reply_to=message)


def _answer(context: Context, answer: Callable[[Site], RecordDict]) -> RecordDict:
    """Run a handler; an error becomes a fixed code, its text goes to the site's log."""
    folder = Path(str(context.node_config["site-folder"]))
    torch.set_num_threads(int(context.node_config.get("threads", torch.get_num_threads())))
    name = folder.name
    try:
        site = Site.open(folder)
        name = site.name
        return answer(site)
    except SynofedError as error:
        site_log(folder, logging.ERROR, str(error))
        return _refusal(folder, name, error.code)
    except Exception:  # anything else may carry patient data in its text
        site_log(folder, logging.CRITICAL, "unexpected error", with_traceback=True)
        return _refusal(folder, name, "internal")


def _refusal(folder: Path, name: str, code: str) -> RecordDict:
    """Refusals stand in the audit log too, but do not depend on it."""
    try:
        chain.append(folder / chain.NAME, "refusal", {"code": code})
    except SynofedError as error:
        site_log(folder, logging.ERROR, str(error))
    return wire.encode_refusal(wire.Refusal(site=name, code=code))


def _device(context: Context) -> torch.device:
    wanted = str(context.node_config.get("device", "auto"))
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
