"""config.json of models that came with code of their own, as transformers 5 writes it now.

Such code is never run: what it computes is known for the values that are accepted here, and any
other is refused by name. These are NomicBERT as its makers wrote it, with fields like GPT-2's, and
Alibaba's model_type "new", the GTE of 2024.
"""

from typing import Any

from rocketjax.models.fields import Fields

# The one value that each may have, and what the makers' code takes where it is missing.
_NOMIC = {
    "causal": (False, False),
    "mlp_fc1_bias": (False, True),
    "mlp_fc2_bias": (False, True),
    "parallel_block": (False, False),
    "prenorm": (False, False),
    "qkv_proj_bias": (False, True),
    "rotary_emb_interleaved": (False, False),
    "rotary_emb_scale_base": (None, None),
    "scale_attn_by_inverse_layer_idx": (False, False),
    "scale_attn_weights": (True, True),
    "use_rms_norm": (False, False),
}
_NEW = {
    "layer_norm_type": ("layer_norm", "layer_norm"),
    "logn_attention_clip1": (False, False),
    "logn_attention_scale": (False, False),
    "pack_qkv": (True, True),
    "position_embedding_type": ("rope", "rope"),
}


def translated(fields: Fields) -> Fields:
    """The fields under the names of transformers 5; as they are, if they have them.

    Raises:
        InputError: a field asks for what the encoder does not compute; it is named.
    """
    kind = fields.values.get("model_type")
    if kind == "new":
        return fields._replace(values=_new(fields))
    if kind == "nomic_bert" and "n_embd" in fields.values:
        return fields._replace(values=_nomic(fields))
    return fields


def _new(fields: Fields) -> dict[str, Any]:
    for name, (value, default) in _NEW.items():
        fields.one_of(name, (value,), default)
    theta = fields.between("rope_theta", 10_000.0, 1, 1e12)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    scaling = fields.values.get("rope_scaling")
    if scaling is not None:
        factor = scaling.get("factor") if isinstance(scaling, dict) else None
        number = float(factor) if isinstance(factor, int | float) else 0.0
        # With a factor below 1 the makers' code would leave short texts as they are.
        known = scaling == {"type": "ntk", "factor": factor} and not isinstance(factor, bool)
        if not known or not 1 <= number < 1e6:
            raise fields.wrong(
                "rope_scaling", "supported: none, or type 'ntk' with a factor of at least 1"
            )
        # Not only long texts: the makers' code always takes the scaled base, and besides divides
        # every frequency, as "linear" does.
        size = fields.size("hidden_size") // fields.size("num_attention_heads")
        rope = {"rope_type": "linear", "rope_theta": theta * number, "factor": number ** (2 / size)}
    defaults = {"type_vocab_size": 1, "pad_token_id": 0}
    own = {"model_type": "gte", "rope_parameters": rope, "rope_scaling": None}
    return defaults | dict(fields.values) | own


def _nomic(fields: Fields) -> dict[str, Any]:
    for name, (value, default) in _NOMIC.items():
        fields.one_of(name, (value,), default)
    if fields.between("rotary_emb_fraction", 0.0, -1, 2) != 1:
        raise fields.wrong("rotary_emb_fraction", "supported: 1.0")
    if "num_experts" in fields.values or "moe_every_n_layers" in fields.values:
        name = "num_experts" if "num_experts" in fields.values else "moe_every_n_layers"
        raise fields.wrong(name, "supported: no mixture of experts")
    act = fields.one_of("activation_function", ("swiglu", "geglu"), None)
    positions = fields.size("n_positions")
    # Beyond these the makers' code scales frequencies by a text's length, or was never trained.
    trained = fields.size("max_trained_positions", positions)
    return {
        "model_type": "nomic_bert",
        "vocab_size": fields.values.get("vocab_size"),
        "hidden_size": fields.size("n_embd"),
        "num_attention_heads": fields.size("n_head"),
        "num_hidden_layers": fields.size("n_layer"),
        "intermediate_size": fields.size("n_inner"),
        "max_position_embeddings": min(positions, trained),
        "type_vocab_size": fields.values.get("type_vocab_size", 2),
        "layer_norm_eps": fields.between("layer_norm_epsilon", 1e-12, 0, 1),
        "hidden_act": {"swiglu": "silu", "geglu": "gelu"}[act],
        "pad_token_id": fields.values.get("pad_token_id") or 0,
        "rope_parameters": {"rope_theta": fields.between("rotary_emb_base", 10_000.0, 1, 1e12)},
    }
