"""Small text encoders of every kind with random weights, and tokenizers trained on a text beside them."""

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
SIGHT = SHAPE | dict(image_size=16, patch_size=8)


def save_tokenizer(folder, lines, limit=24):
    "One that cuts as CLIP's does, with ends around a text."
    inner = Tokenizer(models.BPE(unk_token='</s>', end_of_word_suffix='</w>'))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.BPEDecoder(suffix='</w>')
    ends = ['<s>', '</s>']
    inner.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=200, special_tokens=ends, show_progress=False, end_of_word_suffix='</w>'
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single='<s> $A </s>', special_tokens=[(end, inner.token_to_id(end)) for end in ends]
    )
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token='<s>',
        eos_token='</s>',
        unk_token='</s>',
        pad_token='</s>',
        model_max_length=limit,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def models_of(kind, size, limit=24):
    "A model with random weights that knows `size` tokens."
    ids = dict(vocab_size=size, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    text = SHAPE | ids | dict(max_position_embeddings=limit)
    moving = dict(
        num_frames=2,
        mit_hidden_size=16,
        mit_intermediate_size=32,
        mit_num_hidden_layers=1,
        mit_num_attention_heads=2,
    )
    gpt = dict(n_embd=16, n_layer=2, n_head=2, n_positions=limit)
    kinds = {
        'clip': lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=SIGHT, projection_dim=12)),
        'clip text': lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**text)),
        'clip projected': lambda: hf.CLIPTextModelWithProjection(
            hf.CLIPTextConfig(**text, projection_dim=12)
        ),
        'siglip': lambda: hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=SIGHT)),
        'siglip2': lambda: hf.Siglip2Model(
            hf.Siglip2Config(text_config=text, vision_config=SHAPE | dict(num_patches=4, patch_size=8))
        ),
        'x-clip': lambda: hf.XCLIPModel(
            hf.XCLIPConfig(text_config=text, vision_config=SIGHT | moving, projection_dim=12)
        ),
        'chinese clip': lambda: hf.ChineseCLIPModel(
            hf.ChineseCLIPConfig(text_config=text, vision_config=SIGHT, projection_dim=12)
        ),
        'blip': lambda: hf.BlipModel(
            hf.BlipConfig(
                text_config=text | dict(encoder_hidden_size=16), vision_config=SIGHT, projection_dim=12
            )
        ),
        'gpt2': lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt, **ids)),
        'llama': lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**text)),
        'bert': lambda: hf.BertModel(hf.BertConfig(**text)),
        'roberta': lambda: hf.RobertaForMaskedLM(
            hf.RobertaConfig(**text | dict(max_position_embeddings=limit + 2))
        ),
        'deberta-v2': lambda: hf.DebertaV2Model(hf.DebertaV2Config(**text)),
        't5': lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=size)
        ),
        't5 encoder': lambda: hf.T5EncoderModel(
            hf.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=size)
        ),
        'xlnet': lambda: hf.XLNetModel(
            hf.XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=32, vocab_size=size)
        ),
        'vit': lambda: hf.ViTModel(hf.ViTConfig(**SIGHT)),
    }
    return kinds[kind]() if kind else list(kinds)


def save_teacher(folder, kind, lines, limit=24):
    "A folder as one has it from the hub."
    hf.utils.logging.disable_progress_bar()
    tokenizer = save_tokenizer(folder, lines, limit)
    torch.manual_seed(0)
    models_of(kind, len(tokenizer) + 8, limit).save_pretrained(folder)  # SigLIP adds tokens of its own
    return tokenizer
