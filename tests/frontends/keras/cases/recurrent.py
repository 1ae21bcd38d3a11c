"""Recurrent layers."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()
KINDS = {"simple": L.SimpleRNN, "gru": L.GRU, "lstm": L.LSTM}
CELLS = {"simple": L.SimpleRNNCell, "gru": L.GRUCell, "lstm": L.LSTMCell}


def sequence(d: Draw) -> tuple[int, int]:
    return d.size(3, 6), d.size()


def steps(d: Draw) -> keras.KerasTensor:
    return keras.Input((d.size(3, 6), 3), name="steps")


for _name, _kind in KINDS.items():
    FAMILY.many(
        sequence,
        **{
            f"{_name}": lambda d, c=_kind: c(d.size()),
            f"{_name}_sequences": lambda d, c=_kind: c(d.size(), return_sequences=True),
            f"{_name}_without_bias": lambda d, c=_kind: c(d.size(), use_bias=False),
            f"{_name}_backwards": lambda d, c=_kind: c(3, go_backwards=True),
            f"{_name}_backwards_sequences": lambda d, c=_kind: c(3, go_backwards=True, return_sequences=True),
            f"{_name}_state": lambda d, c=_kind: c(3, return_state=True),
            f"{_name}_state_sequences": lambda d, c=_kind: c(3, return_state=True, return_sequences=True),
            f"{_name}_state_backwards": lambda d, c=_kind: c(3, return_state=True, go_backwards=True),
            f"{_name}_relu": lambda d, c=_kind: c(3, activation="relu", unroll=True),
            f"{_name}_softsign": lambda d, c=_kind: c(3, activation="softsign", dropout=0.2),
            f"{_name}_linear": lambda d, c=_kind: c(2, activation="linear"),
            f"{_name}_elu": lambda d, c=_kind: c(2, activation="elu"),
            f"{_name}_softplus": lambda d, c=_kind: c(2, activation="softplus"),
            f"{_name}_leaky": lambda d, c=_kind: c(2, activation="leaky_relu"),
        },
    )
    for _mode in ("concat", "sum", "mul", "ave", None):
        for _all in (False, True):
            FAMILY.one(
                f"{_name}_both_{_mode}_{_all}",
                lambda d, c=_kind, m=_mode, a=_all: L.Bidirectional(c(3, return_sequences=a), merge_mode=m),
                sequence,
            )
    FAMILY.one(
        f"{_name}_both_state",
        lambda d, c=_kind: L.Bidirectional(c(3, return_state=True, return_sequences=True)),
        sequence,
    )
    FAMILY.one(
        f"{_name}_both_unlike",
        lambda d, c=_kind: L.Bidirectional(
            c(3, return_sequences=True),
            backward_layer=c(4, go_backwards=True, return_sequences=True, activation="relu"),
        ),
        sequence,
    )
    FAMILY.one(f"{_name}_free", lambda d, c=_kind: c(3, return_sequences=True), lambda d: (None, 3))
    FAMILY.one(f"{_name}_cell", lambda d, c=_name: L.RNN(CELLS[c](3), return_sequences=True), sequence)

    def _masked(d: Draw, kind=_kind, options=None):
        x = steps(d)
        return keras.Model(x, kind(3, **(options or {}))(L.Masking()(x)))

    for _label, _options in {
        "": {},
        "_sequences": {"return_sequences": True},
        "_zeros": {"return_sequences": True, "zero_output_for_mask": True},
        "_backwards": {"return_sequences": True, "go_backwards": True},
        "_backwards_last": {"go_backwards": True},
        "_state": {"return_state": True},
        "_unrolled": {"return_sequences": True, "unroll": True},
    }.items():
        FAMILY.cases[f"{_name}_masked{_label}"] = lambda d, m=_masked, o=_options: m(d, options=o)

    def _masked_both(d: Draw, kind=_kind, every=True):
        x = steps(d)
        return keras.Model(x, L.Bidirectional(kind(3, return_sequences=every))(L.Masking()(x)))

    FAMILY.cases[f"{_name}_masked_both"] = lambda d, m=_masked_both: m(d)
    FAMILY.cases[f"{_name}_masked_both_last"] = lambda d, m=_masked_both: m(d, every=False)

    def _started(d: Draw, kind=_kind, count=2 if _name == "lstm" else 1, masked="", back=False):
        x = steps(d)
        states = [keras.Input((4,), name=f"state{k}") for k in range(count)]
        y = L.Masking()(x) if masked == "tensor" else x
        more = {"mask": keras.ops.any(x != 0.0, axis=-1)} if masked == "argument" else {}
        first = kind(4, return_sequences=True, return_state=True, go_backwards=back)
        outputs = [*first(y, initial_state=states, **more), kind(4)(y, initial_state=states, **more)]
        return keras.Model([x, *states], [*outputs, kind(3)(outputs[0])])

    FAMILY.cases[f"{_name}_started"] = lambda d, m=_started: m(d)
    FAMILY.cases[f"{_name}_started_masked"] = lambda d, m=_started: m(d, masked="argument")
    FAMILY.cases[f"{_name}_started_masked_backwards"] = lambda d, m=_started: m(d, masked="argument", back=True)
    FAMILY.cases[f"{_name}_started_overlooked"] = lambda d, m=_started: m(d, masked="tensor")

    def _started_both(d: Draw, kind=_kind, count=4 if _name == "lstm" else 2):
        x = steps(d)
        states = [keras.Input((4,), name=f"state{k}") for k in range(count)]
        return keras.Model([x, *states], L.Bidirectional(kind(4, return_sequences=True))(x, initial_state=states))

    FAMILY.cases[f"{_name}_started_both"] = lambda d, m=_started_both: m(d)

FAMILY.many(
    sequence,
    gru_before=lambda d: L.GRU(3, reset_after=False, return_sequences=True),
    gru_before_both=lambda d: L.Bidirectional(L.GRU(3, reset_after=False)),
    gru_hard=lambda d: L.GRU(3, recurrent_activation="hard_sigmoid"),
    lstm_hard=lambda d: L.LSTM(3, recurrent_activation="hard_sigmoid", activation="hard_sigmoid"),
    lstm_mixed=lambda d: L.LSTM(3, recurrent_activation="leaky_relu", activation="elu"),
    stacked=lambda d: L.RNN([L.LSTMCell(3), L.GRUCell(2), L.SimpleRNNCell(4)]),
    stacked_sequences=lambda d: L.RNN([L.GRUCell(2), L.LSTMCell(3)], return_sequences=True, go_backwards=True),
    stacked_alike=lambda d: L.RNN([L.LSTMCell(3), L.LSTMCell(3)], return_sequences=True),
)


@FAMILY.case
def masked_layers_on_top(d: Draw) -> keras.Model:
    x = keras.Input((d.size(3, 6),), dtype="int32", name="words")
    y = L.Embedding(9, 4, mask_zero=True)(x)
    y = L.LSTM(3, return_sequences=True)(L.Dropout(0.5)(y))
    y = L.GRU(4, return_sequences=True)(L.Dense(3)(y))
    return keras.Model(x, L.Bidirectional(L.SimpleRNN(2))(L.LayerNormalization()(y)))


@FAMILY.case
def masked_joined_in_time(d: Draw) -> keras.Model:
    x = steps(d)
    y = L.Masking()(x)
    return keras.Model(x, L.GRU(2)(L.Concatenate(axis=1)([L.GRU(3, return_sequences=True)(y), y])))


@FAMILY.case
def masked_through_a_time_distributed(d: Draw) -> keras.Model:
    x = steps(d)
    y = L.TimeDistributed(L.Dense(3))(L.Masking()(x))
    return keras.Model(x, L.LSTM(2)(L.TimeDistributed(L.BatchNormalization())(y)))


@FAMILY.case
def masked_and_lost(d: Draw) -> keras.Model:
    x = steps(d)
    return keras.Model(x, L.LSTM(2)(L.Conv1D(3, 2)(L.Masking()(x))))


@FAMILY.case
def masked_stack(d: Draw) -> keras.Model:
    x = steps(d)
    return keras.Model(x, L.RNN([L.LSTMCell(3), L.GRUCell(2)], return_sequences=True)(L.Masking()(x)))


@FAMILY.case
def masked_merge(d: Draw) -> keras.Model:
    x = steps(d)
    y = L.Masking()(x)
    return keras.Model(x, L.LSTM(2)(L.Concatenate()([L.GRU(3, return_sequences=True)(y), y])))


@FAMILY.case
def encoder_decoder(d: Draw) -> keras.Model:
    a, b = keras.Input((5, 3)), keras.Input((4, 2))
    _, h, c = L.LSTM(4, return_state=True)(a)
    return keras.Model(
        [a, b], L.Dense(3, activation="softmax")(L.LSTM(4, return_sequences=True)(b, initial_state=[h, c]))
    )
