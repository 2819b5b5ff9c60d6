"""A ClientApp as anybody might write it with Flower: add one to the weights, or fail on request."""

from __future__ import annotations

import os

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    index = int(str(context.node_config["partition-id"]))
    arrays = [array + 1.0 + index for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
    calls = context.state.metric_records.get("calls", MetricRecord({"count": 0}))
    calls["count"] = int(str(calls["count"])) + 1
    context.state["calls"] = calls
    metrics = MetricRecord({"num-examples": 1 + index, "calls": int(str(calls["count"])), "process": os.getpid()})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message)


@app.query("fail")
def fail(message: Message, context: Context) -> Message:
    raise ValueError("scripted")


@app.query("die")
def die(message: Message, context: Context) -> Message:
    os._exit(1)
