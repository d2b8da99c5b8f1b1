"""The ClientApp."""

import warnings

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import log_loss

from linear.task import create_model, get_model_params, load_data, set_model_params

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Fit the estimator on from the parameters in the message."""
    model = create_model(context.run_config["penalty"], context.run_config["local-epochs"])
    set_model_params(model, msg.content["arrays"].to_numpy_ndarrays())
    x, _, y, _ = load_data(context.node_config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one pass converges to nothing, and is not meant to
        model.fit(x, y)
    metrics = {"train_logloss": log_loss(y, model.predict_proba(x), labels=range(10)), "num-examples": len(x)}
    arrays = ArrayRecord(get_model_params(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Test the parameters in the message."""
    model = create_model(context.run_config["penalty"], context.run_config["local-epochs"])
    set_model_params(model, msg.content["arrays"].to_numpy_ndarrays())
    _, x, _, y = load_data(context.node_config)
    metrics = {
        "test_logloss": log_loss(y, model.predict_proba(x), labels=range(10)),
        "accuracy": float(model.score(x, y)),
        "num-examples": len(x),
    }
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
