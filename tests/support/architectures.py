"""Random models of every architecture that transformers classifies texts with, as small as they can be built."""

from transformers import AutoConfig

PLACES = 40  # tokens that each of them reads at most, where there is a limit

LAYERS = (
    'num_hidden_layers',
    'n_layer',
    'n_layers',
    'num_layers',
    'encoder_layers',
    'decoder_layers',
    'num_decoder_layers',
    'depth',
    'num_self_attends_per_block',
)
WIDTHS = (
    'hidden_size',
    'd_model',
    'n_embd',
    'dim',
    'emb_dim',
    'embedding_size',
    'out_hidden_size',
    'd_latents',
    'cross_attention_hidden_size',
)
HEADS = (
    'num_attention_heads',
    'n_head',
    'n_heads',
    'num_heads',
    'num_key_value_heads',
    'encoder_attention_heads',
    'decoder_attention_heads',
    'num_self_attention_heads',
    'num_cross_attention_heads',
)
INNER = (
    'intermediate_size',
    'd_inner',
    'hidden_dim',
    'ffn_dim',
    'd_ff',
    'encoder_ffn_dim',
    'decoder_ffn_dim',
    'feed_forward_size',
    'moe_intermediate_size',
    'shared_expert_intermediate_size',
)
HEAD_SIZES = (
    'head_dim',
    'd_kv',
    'attention_head_size',
    'qk_rope_head_dim',
    'qk_nope_head_dim',
    'v_head_dim',
    'rotary_dim',
    'linear_key_head_dim',
    'linear_value_head_dim',
    'index_head_dim',
)
LIMITS = ('max_position_embeddings', 'n_positions', 'max_seq_len')
EXPERTS = (
    'num_experts',
    'num_local_experts',
    'n_routed_experts',
    'index_n_heads',
    'num_latents',
    'q_lora_rank',
    'kv_lora_rank',
    'linear_num_key_heads',
    'linear_num_value_heads',
)
SIZES = {
    'vocab_size': 64,
    'pad_token_id': 0,
    'bos_token_id': 2,
    'cls_token_id': 2,
    'eos_token_id': 3,
    'sep_token_id': 3,
    'decoder_start_token_id': 2,
    'num_experts_per_tok': 2,
    'n_group': 1,
    'topk_group': 1,
    'image_size': 8,
    'patch_size': 4,
    'mamba_dt_rank': 2,
    'mamba_d_state': 4,
    'mm_tokens_per_image': 4,
    'num_position_embeddings': 16,
}
for names, size in (
    (LAYERS, 1),
    (WIDTHS, 16),
    (HEADS, 2),
    (INNER, 32),
    (HEAD_SIZES, 8),
    (LIMITS, PLACES),
    (EXPERTS, 4),
):
    SIZES |= dict.fromkeys(names, size)

OWN = {
    'gpt_neo': {'attention_types': [[['global'], 1]]},
    'jamba': {
        'num_hidden_layers': 2,
        'attn_layer_period': 2,
        'attn_layer_offset': 1,
        'expert_layer_offset': 1,
    },
    'zamba': {
        'num_hidden_layers': 5,
        'layer_types': ['mamba', 'mamba', 'hybrid', 'mamba', 'hybrid'],
        'attention_hidden_size': 32,
        'attention_head_dim': 16,
    },
    'zamba2': {
        'num_hidden_layers': 2,
        'hybrid_layer_ids': [1],
        'attention_hidden_size': 32,
        'attention_head_dim': 16,
        'n_mamba_heads': 2,
        'mamba_headdim': 16,
        'chunk_size': 8,
        'layers_block_type': ['mamba', 'hybrid'],
    },
    'layoutlmv3': {'coordinate_size': 2, 'shape_size': 4, 'input_size': 8},
    'lilt': {'hidden_size': 24},
    'reformer': {
        'axial_pos_shape': [5, 8],
        'axial_pos_embds_dim': [8, 8],
        'attn_layers': ['local', 'lsh'],
        'local_attn_chunk_length': 8,
        'lsh_attn_chunk_length': 8,
        'num_buckets': 2,
    },
    'deepseek_v2': {'num_experts_per_tok': 2},
    'esm': {'vocab_size': 64, 'emb_layer_norm_before': False, 'token_dropout': False},
    'hunyuan_v1_dense': {'head_dim': 8},
    'hunyuan_v1_moe': {'head_dim': 8, 'moe_topk': 1, 'num_experts': 2},
    'ministral': {'head_dim': 8},
    'nemotron': {'num_key_value_heads': 2, 'head_dim': 8},
    'mistral4': {'qk_rope_head_dim': 4, 'qk_nope_head_dim': 4},
    'qwen3_5_text': {'layer_types': ['linear_attention', 'full_attention'], 'num_hidden_layers': 2},
    'qwen3_next': {'layer_types': ['linear_attention', 'full_attention'], 'num_hidden_layers': 2},
    't5': {'decoder_start_token_id': 2},
    'mt5': {'decoder_start_token_id': 2},
    'umt5': {'decoder_start_token_id': 2},
    'cohere_compass_text': {
        'rope_parameters': {
            'full_attention': {'rope_type': 'default', 'rope_theta': 10000.0},
            'sliding_attention': {'rope_type': 'default', 'rope_theta': 10000.0},
        }
    },
    'longformer': {'attention_window': [8]},
    'nystromformer': {'num_landmarks': 4, 'segment_means_seq_len': 4},
    'funnel': {'block_sizes': [1, 1], 'd_head': 8, 'num_decoder_layers': 1},
    'canine': {
        'num_hash_buckets': 36,  # as many character positions, too
        'num_hash_functions': 2,
        'local_transformer_stride': 16,
        'upsampling_kernel_size': 4,
    },
    'luke': {'entity_vocab_size': 8, 'entity_emb_size': 8},
    'markuplm': {
        'max_xpath_tag_unit_embeddings': 8,
        'max_xpath_subs_unit_embeddings': 8,
        'xpath_unit_hidden_size': 4,
        'tag_pad_id': 7,
        'subs_pad_id': 7,
    },
    'roc_bert': {
        'shape_vocab_size': 8,
        'pronunciation_vocab_size': 8,
        'pronunciation_embed_dim': 8,
        'shape_embed_dim': 8,
    },
    'mobilebert': {'intra_bottleneck_size': 16, 'true_hidden_size': 16},
    'xmod': {'languages': ['en_XX'], 'default_language': 'en_XX'},
    'layoutlm': {'max_2d_position_embeddings': 64},
    'squeezebert': {
        'q_groups': 2,
        'k_groups': 2,
        'v_groups': 2,
        'post_attention_groups': 1,
        'intermediate_groups': 2,
        'output_groups': 2,
    },
    'tapas': {'type_vocab_sizes': [3, 8, 8, 2, 8, 8, 2]},
}


def shrunk(usual):
    "What makes a configuration small, those inside of it included."
    small = {
        key: size
        for key, size in SIZES.items()
        if usual.get(key) is not None or key.endswith('token_id') and key in usual
    }
    for key, inner in usual.items():
        if isinstance(inner, dict) and 'model_type' in inner:
            small[key] = {
                'model_type': inner['model_type'],
                **shrunk(inner),
                **OWN.get(inner['model_type'], {}),
            }
    return small


def small_config(name):
    "The configuration of a tiny model."
    return AutoConfig.for_model(name, **shrunk(AutoConfig.for_model(name).to_dict()) | OWN.get(name, {}))
