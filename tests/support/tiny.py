"""A tiny random LLaMA-architecture model with a tokenizer of its own: real code in seconds."""

from pathlib import Path

SENTENCES = (
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "### Instruction:\nContinue the daily dialogue.\n\n### Input:\nHow are you?\n\n### Response:\n",
    "The quick brown fox jumps over the lazy dog, and nobody is surprised any more.",
)


def tiny_model(path: Path, seed: int = 0, **shape: int) -> Path:
    """Save the model (float32 safetensors) and its tokenizer (BOS, EOS, no padding token); `shape`
    is what of LlamaConfig is to be another size."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(path)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, **shape},
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path
