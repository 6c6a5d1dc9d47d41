"""Safetensors files that are no whole Stable Diffusion are named by what they hold."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from memjax.interop import load
from memjax.runs.model import load_model
from tests.interop.stable_diffusion.pipelines import WEIGHTS, assert_sentence, folder

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
LORA = r"a LoRA, .* merge it into its base model, .*\(load_lora_weights"
WORD = "a textual inversion, .*load_textual_inversion"
FILES = {
    f"lora_unet_{QUERY.replace('.', '_')}.lora_down.weight": LORA,
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": LORA,
    f"unet.{QUERY}.lora_A.weight": LORA,
    f"base_model.model.{QUERY}.lora_B.weight": LORA,
    f"unet.{QUERY.removesuffix('to_q')}processor.to_q_lora.down.weight": LORA,
    f"{QUERY}.lora.up.weight": LORA,
    "lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": LORA,
    "lycoris_mid_block_proj_in.lokr_w1": LORA,
    "emb_params": WORD,
    "<cat-toy>": WORD,
    "sks": WORD,
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "input_hint_block.0.weight": "a ControlNet",
    "encoder.conv_in.weight": r"an autoencoder \(VAE\) alone",
    f"{VAE}decoder.conv_in.weight": r"an autoencoder \(VAE\) alone",
    "down_blocks.0.resnets.0.norm1.weight": "the U-Net of a diffusers folder alone, .* model_index",
    "input_blocks.0.0.weight": "a U-Net alone",
    f"{UNET}input_blocks.0.0.weight": "a U-Net alone",
    "text_model.embeddings.token_embedding.weight": "a text encoder alone",
    f"{TEXT}transformer.text_model.final_layer_norm.bias": "a text encoder alone",
    "ip_adapter.1.to_k_ip.weight": "an IP-Adapter",
    "adapter.body.0.in_conv.weight": "a T2I-Adapter",
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "a motion module",
    f"{UNET}input_blocks.1.0.time_stack.in_layers.0.weight": "a video model",
    f"{UNET}label_emb.0.0.weight": "a model with conditions beside the text",
    f"{UNET}time_embed.cond_proj.weight": "a latent consistency model, .* distilled from",
    "depth_model.model.scratch.weight": "Stable Diffusion 2 with depth",
    "model.layers.0.self_attn.q_proj.weight": "a language model",
    "down_blocks_0/resnets_0/conv1/kernel": "weights that `memjax convert` wrote of a run",
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_holds_is_named_before_a_tokenizer_is_asked_for(tmp_path, name):
    file = tmp_path / "file.safetensors"
    save_file({name: np.zeros((2, 3), np.float32)}, file)
    with pytest.raises(ValueError, match=f"holds {FILES[name]}") as caught:
        load(file)
    assert_sentence(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.onnx", r"its model\.onnx is an ONNX graph"),
        ("diffusion_flax_model.msgpack", r"is Flax's weights"),
        ("openvino_model.bin", r"is a graph of OpenVINO"),
        ("diffusion_pytorch_model.safetensors.part", r"is a download that has not ended"),
    ],
)
def test_folders_of_other_formats_are_named(tmp_path, name, said):
    model = folder(tmp_path / "model")
    (model / WEIGHTS["unet"]).rename(model / "unet" / name)
    with pytest.raises(ValueError, match=f"has no .*{said}") as caught:
        load(model)
    assert_sentence(caught.value)


def test_a_folder_without_an_index_says_what_may_be_meant(tmp_path):
    model = folder(tmp_path / "models" / "sd14")
    (tmp_path / "lora").mkdir()
    save_file({"a": np.zeros(1)}, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    for path, said in {
        tmp_path / "models": "give .*sd14, which is one",
        model / "unet": "give .*sd14, which is one",
        tmp_path / "lora": "it holds 'pytorch_lora_weights.safetensors', give that file",
    }.items():
        for opened in (load, load_model):
            with pytest.raises(ValueError, match=said) as caught:
                opened(path)
            assert_sentence(caught.value)
