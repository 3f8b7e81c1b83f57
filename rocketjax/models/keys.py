"""What becomes of each key of a model folder's files (docs/models.md): read, idle, or named.

Files come from anyone. A key that decides what a model computes is read, or refused where it is
read; what is left over and what nobody knows is named, so that nothing is lost without a word.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rocketjax.models.sentence_transformers import (
    TRANSFORMER_SETTINGS,
    read_modules,
    transformer_folder,
)
from rocketjax.runtime.errors import InputError
from rocketjax.runtime.files import read_json


class Keys(NamedTuple):
    """The keys of one file, as names with blanks between them."""

    read: str  # they decide what is computed, or are checked
    idle: str = ""  # they change nothing here
    only: Mapping[str, tuple[Any, ...]] = {}  # heeded with these values; others are named


_LIBRARY = "config_sentence_transformers.json"
_GENERATION = """
    bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores prefix
    remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens
    task_specific_params temperature tf_legacy_loss top_k top_p typical_p use_cache"""
_TRAINING = """
    attention_probs_dropout_prob classifier_dropout finetuning_task gradient_checkpointing
    hidden_dropout_prob initializer_range problem_type"""
_ORIGIN = """
    _name_or_path adapters auto_map dtype language model_name name_or_path torch_dtype
    transformers_version"""
_TORCH = """
    chunk_size_feed_forward output_attentions output_hidden_states output_past return_dict
    tie_word_embeddings torchscript use_bfloat16 _attn_implementation
    _attn_implementation_autoset attn_implementation"""
# Google's BERT files have them, and no version of transformers reads them.
_UNREAD = """
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
    pooler_size_per_head pooler_type"""
_TOKENS = """
    additional_special_tokens bos_token cls_token eos_token extra_special_tokens mask_token
    pad_token sep_token unk_token"""

# Of no effect in any version of transformers: a table of positions would be of another kind.
_MODERN = """
    causal_mask classifier_dropout decoder_bias deterministic_flash_attn embedding_dropout
    initializer_cutoff_factor layer_norm_eps mlp_dropout attention_dropout position_embedding_type
    reference_compile repad_logits_with_grad sparse_pred_ignore_index sparse_prediction"""
_NOMIC = """
    attn_pdrop dense_seq_output embd_pdrop fused_bias_fc fused_dropout_add_ln
    last_layer_subset pad_vocab_size_multiple reorder_and_upcast_attn resid_pdrop
    rotary_scaling_factor summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj use_flash_attn use_xentropy"""
_READ_NOMIC = """
    activation_function causal max_trained_positions mlp_fc1_bias mlp_fc2_bias moe_every_n_layers
    n_embd n_head n_inner n_layer n_positions layer_norm_epsilon num_experts parallel_block prenorm
    qkv_proj_bias rotary_emb_base rotary_emb_fraction rotary_emb_interleaved rotary_emb_scale_base
    scale_attn_by_inverse_layer_idx scale_attn_weights use_rms_norm"""

# What config.json has beside the keys of BERT, by model_type.
FAMILIES: dict[str, Keys] = {
    "modernbert": Keys(
        """attention_bias classifier_activation classifier_bias classifier_pooling
        global_attn_every_n_layers global_rope_theta hidden_activation layer_types
        local_attention local_rope_theta mlp_bias norm_bias norm_eps rope_parameters
        rope_scaling""",
        _MODERN,
        {"is_causal": (False,)},
    ),
    "distilbert": Keys(
        "activation dim hidden_dim n_heads n_layers",
        "attention_dropout dropout qa_dropout seq_classif_dropout sinusoidal_pos_embds "
        "tie_weights_",
    ),
    "electra": Keys(
        "embedding_size",
        "summary_activation summary_last_dropout summary_type summary_use_proj",
    ),
    "mpnet": Keys("relative_attention_num_buckets"),
    "nomic_bert": Keys(f"head_dim rope_parameters rope_scaling {_READ_NOMIC}", _NOMIC),
    "gte": Keys("rope_parameters rope_scaling"),
    "new": Keys(
        """layer_norm_type logn_attention_clip1 logn_attention_scale pack_qkv rope_scaling
        rope_theta""",
        "unpad_inputs use_memory_efficient_attention",
    ),
    "deberta-v2": Keys(
        """attention_head_size conv_kernel_size embedding_size max_relative_positions
        norm_rel_ebd pooler_hidden_act pooler_hidden_size pos_att_type position_biased_input
        position_buckets relative_attention share_att_key""",
        "cls_dropout conv_act conv_groups legacy pooler_dropout",
    ),
}

FILES: dict[str, Keys] = {
    "config.json": Keys(
        """architectures hidden_act hidden_size id2label intermediate_size is_decoder
        layer_norm_eps max_position_embeddings model_type num_attention_heads num_hidden_layers
        pad_token_id position_embedding_type sentence_transformers
        sbert_ce_default_activation_function task_type_vocab_size tokenizer_class
        type_vocab_size use_task_id vocab_size""",
        f"{_TRAINING} {_ORIGIN} {_TORCH} {_GENERATION} {_UNREAD} bos_token_id cls_token_id "
        "eos_token_id sep_token_id mask_token_id cross_attention_hidden_size label2id num_labels",
        {
            "add_cross_attention": (False,),
            "is_encoder_decoder": (False,),
            "pruned_heads": ({},),
            "quantization_config": (),
        },
    ),
    "tokenizer_config.json": Keys(
        f"""{_TOKENS} add_bos_token add_eos_token add_prefix_space added_tokens_decoder
        do_lower_case errors fast_tokenizer_files keep_accents max_len model_input_names
        model_max_length post_processor sp_model_kwargs special_tokens split_special_tokens
        strip_accents tokenize_chinese_chars tokenizer_class trim_offsets truncation_side
        unk_id vocab_file vocab_type""",
        """_name_or_path auto_map backend chat_template clean_up_tokenization_spaces
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        do_basic_tokenize from_slow full_tokenizer_file is_local language legacy
        local_files_only max_length model_specific_special_tokens model_type name_or_path
        never_split pad_to_multiple_of pad_token_type_id pad_token_id pad_type processor_class
        special_tokens_map_file stride tokenizer_file truncation truncation_strategy use_fast
        verbose wordpieces_prefix""",
        {"padding_side": ("right",)},
    ),
    "special_tokens_map.json": Keys(_TOKENS),
    "sentence_bert_config.json": Keys(
        "do_lower_case document_length max_seq_length query_length transformer_task",
        "modality_config module_output_name unpad_inputs",
        {
            name: ({},)
            for name in (
                *("config_args", "config_kwargs", "model_args", "model_kwargs"),
                *("processing_kwargs", "processor_kwargs", "tokenizer_args"),
                *("query_expansion", "tokenizer_name_or_path"),
            )
        },
    ),
    _LIBRARY: Keys(
        "activation_fn default_prompt_name model_type prompts similarity_fn_name truncate_dim",
        "__version__ keep_in_fp32_modules requirements",
    ),
    "modules.json": Keys("path type", "idx name", {"kwargs": ([],)}),
    "Pooling/config.json": Keys(
        """include_prompt pooling_mode pooling_mode_cls_token pooling_mode_lasttoken
        pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens pooling_mode_mean_tokens
        pooling_mode_weightedmean_tokens""",
        "embedding_dimension word_embedding_dimension",
    ),
    "Dense/config.json": Keys(
        "activation_function module_input_name module_output_name use_residual",
        "bias in_features out_features",
    ),
    "Dropout/config.json": Keys("", "dropout"),
    "LayerNorm/config.json": Keys("", "dimension"),
    "Normalize/config.json": Keys("module_input_name module_output_name"),
} | {f"config.json of {kind}": keys for kind, keys in FAMILIES.items()}


# Names that say how something is computed.
_OF_COMPUTING = re.compile(
    r"rope|rotary|alibi|activation|hidden_act|position|relative|window|glu|gated|norm_type"
    r"|(layer|rms|pre|post)_?norm"
)


def refuse_strange(path: Path, values: Mapping[str, Any]) -> None:
    """Refuses a config.json with a field that nobody knows and that may change what is computed.

    By its name; one that is None, False or empty asks for nothing. `unheeded` names all others.

    Raises:
        InputError: there is one; it is named.
    """
    kind = str(values.get("model_type"))
    for name, value in values.items():
        if value in (None, False, "", [], {}) or not _OF_COMPUTING.search(name):
            continue
        if _strange(_of_config(kind), name, value):
            raise InputError(
                f"{path}: {name} is {str(value)[:60]!r}; no such field of model_type {kind} is "
                "known, and by its name it changes what is computed: supported without it (delete "
                "it if it has no effect)"
            )


def _of_config(kind: str) -> Keys:
    """The keys of config.json for a model_type."""
    keys, more = FILES["config.json"], FAMILIES.get(kind, Keys(""))
    return Keys(f"{keys.read} {more.read}", f"{keys.idle} {more.idle}", {**keys.only, **more.only})


def unheeded(folder: Path) -> str:
    """One line that names what the files of a model folder say and nothing heeds; "" if nothing.

    Raises:
        InputError: a file is damaged.
    """
    found: dict[str, list[str]] = {}
    if read_modules(folder) is None:
        for name in (*TRANSFORMER_SETTINGS, _LIBRARY):
            if (folder / name).is_file():  # the library does not read it either
                found[name] = ["as a whole, as there is no modules.json"]
    for file, keys, fields in _contents(folder):
        if keys is FILES["config.json"]:
            keys = _of_config(str(fields.get("model_type")))
        for name, value in fields.items():
            if text := _strange(keys, name, value):
                found.setdefault(file, []).append(text)
    if not found:
        return ""
    files = "; ".join(f"{file}: {', '.join(dict.fromkeys(names))}" for file, names in found.items())
    return f"{folder}: not heeded: {files}"


def _contents(folder: Path) -> Iterator[tuple[str, Keys, dict[str, Any]]]:
    """Each object in the files of a folder: the file, its known keys, and what it holds."""
    inner = transformer_folder(folder)
    modules = read_modules(folder)
    places = {
        inner / name: name
        for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json")
    }
    if modules is not None:
        places |= {inner / name: TRANSFORMER_SETTINGS[0] for name in TRANSFORMER_SETTINGS}
        for name in (_LIBRARY, "modules.json"):
            places[folder / name] = name
        for module in modules:
            if module.path and f"{module.kind}/config.json" in FILES:
                places[folder / module.path / "config.json"] = f"{module.kind}/config.json"
    for path, name in places.items():
        if path.is_file():
            values = read_json(path, folder)
            for fields in values if isinstance(values, list) else [values]:
                if isinstance(fields, dict):
                    yield str(path.relative_to(folder)), FILES[name], fields


def _strange(keys: Keys, name: str, value: Any) -> str:
    """How a key is named that is not known, or not with this value; "" where it is."""
    if name in keys.only:
        return "" if value is None or value in keys.only[name] else f"{name} {str(value)[:40]!r}"
    if name in f"{keys.read} {keys.idle}".split():
        return ""
    return re.sub(r"\s+", " ", str(name))[:60]
