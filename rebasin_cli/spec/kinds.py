"""What the shipped specs are for: the groups in which they are listed."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, tuple[str, ...]] = {
    "plain and recurrent": ("gru", "lstm", "mlp", "rnn"),
    "vision": (
        "cait", "convnext", "convnext-hf", "convnext-original", "convnext-torchvision", "densenet",
        "efficientnet", "efficientnet-timm", "efficientnet-v2", "efficientnet-v2-timm", "ghostnet", "gmlp",
        "googlenet", "hrnet", "inception", "mlp-mixer", "mobilenetv2", "mobilenetv3", "mobilenetv3-timm",
        "poolformer", "regnet", "regnet-timm", "res2net", "resmlp", "resnet-basic", "resnet-bottleneck",
        "resnet-option-a", "squeezenet", "swin", "swin-hf", "swin-original", "swinv2", "swinv2-original", "vgg",
        "vit", "vit-hf", "vit-torchvision", "xcit",
    ),
    "vision and language": ("clip", "clip-openai", "clip-vision", "llava", "siglip"),
    "language, decoders": (
        "bloom", "cohere", "falcon", "falcon-7b", "gemma", "gpt-bigcode", "gpt-j", "gpt-neo", "gpt-neox", "gpt2",
        "llama", "llama-consolidated", "mamba", "mamba2", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmoe", "opt",
        "phi", "phi3", "qwen-moe", "qwen3", "stablelm", "starcoder2",
    ),
    "language, encoders and both": (
        "albert", "bart", "bert", "deberta-v2", "distilbert", "mpnet", "roberta-fairseq", "t5", "t5-encoder",
    ),
    "diffusion": (
        "dit", "dit-original", "flux", "flux-original", "sd-text-encoder", "sd-text-encoder-openclip", "sd-vae",
        "sd-vae-original", "sd15", "sd15-unet", "sd15-unet-original", "sd2", "sd2-unet", "sd2-unet-original",
        "sd3", "sd3-original", "sdxl", "sdxl-unet", "sdxl-unet-original",
    ),
    "audio": ("whisper", "whisper-openai"),
}  # fmt: skip
"""Names by kind; a test holds that every shipped spec is in one."""

OTHERS = "others"


def kind_of(name: str) -> str:
    """The kind of a shipped spec."""
    return next((kind for kind, names in KINDS.items() if name in names), OTHERS)
