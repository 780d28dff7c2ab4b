"""Writes the files of this folder with the libraries whose formats they are: `python make.py` where flax and keras are.

Both networks are the same perceptron of 6, 5, 4 and 3 units, so that what is read can be compared with `expected.npz`.
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import keras
import numpy as np

HERE = Path(__file__).parent
WIDTHS = (6, 5, 4, 3)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in WIDTHS[1:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(WIDTHS[-1])(x)


params = Net().init(jax.random.key(0), jnp.ones((1, WIDTHS[0])))["params"]
expected = {f"Dense_{i}.{n}": np.asarray(params[f"Dense_{i}"][n]) for i in range(3) for n in ("kernel", "bias")}
np.savez(HERE / "expected.npz", **expected)
(HERE / "flax.msgpack").write_bytes(flax.serialization.to_bytes({"params": params}))
state = {
    "params": params,
    "half": jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["Dense_0"]),
    "step": 7,
    "lr": np.float32(0.5),
    "count": jnp.array(3),
    "opt_state": {"0": {"mu": params}},
}
(HERE / "flax_state.msgpack").write_bytes(flax.serialization.to_bytes(state))
whole = flax.serialization.MAX_CHUNK_SIZE
flax.serialization.MAX_CHUNK_SIZE = 64  # in bytes: a gigabyte otherwise
(HERE / "flax_chunked.msgpack").write_bytes(flax.serialization.to_bytes({"params": params}))
flax.serialization.MAX_CHUNK_SIZE = whole

layers = [keras.layers.Dense(w, activation="relu") for w in WIDTHS[1:-1]] + [keras.layers.Dense(WIDTHS[-1])]
model = keras.Sequential([keras.Input((WIDTHS[0],)), *layers])
for i, layer in enumerate(model.layers):
    layer.set_weights([expected[f"Dense_{i}.kernel"], expected[f"Dense_{i}.bias"]])
model.compile(optimizer="adam", loss="mse")
model.save_weights(HERE / "keras.weights.h5")
model.save(HERE / "keras_whole.h5")
