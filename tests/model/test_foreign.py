"""Models of the family come in with what their own files tell, or are refused with the cause."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import DETECTOR, DIMENSIONS, authors_file, recipe, weights
from torch import nn
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from slslib import evaluate, open_corpus, score, train
from slslib.errors import CheckpointError, ConfigError
from slslib.model.checkpoints import locate
from slslib.model.convert import convert
from slslib.model.detector import Detector, DetectorConfig, load_backbone
from slslib.model.foreign import dimensions
from slslib.model.xlsr import XLSR, XLSRConfig

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 5,
}
BASE: dict[str, Any] = {
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "conv_bias": False,
}
LARGE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
XLS_R = LARGE | {"conv_bias": True}
FAMILY = {
    "wav2vec2-base": (Wav2Vec2Model, Wav2Vec2Config, BASE),
    "wav2vec2, post-norm, layer norm": (
        Wav2Vec2Model,
        Wav2Vec2Config,
        XLS_R | {"do_stable_layer_norm": False},
    ),
    "xls-r-1b": (Wav2Vec2Model, Wav2Vec2Config, XLS_R | {"num_attention_heads": 2}),
    "hubert-base": (HubertModel, HubertConfig, BASE),
    "hubert-large": (HubertModel, HubertConfig, XLS_R),
    "wavlm-base": (WavLMModel, WavLMConfig, BASE),
    "wavlm-large": (WavLMModel, WavLMConfig, LARGE | {"conv_bias": False}),
}


def write(kind: str, folder: Path, **changes: Any) -> nn.Module:
    """Save a random model of the family whose parameters have no default values."""
    network, config, style = FAMILY[kind]
    torch.manual_seed(5)
    model = network(config(**(TINY | style | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.fixture
def waveform() -> torch.Tensor:
    return 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", FAMILY)
def test_layers_are_the_hidden_states_of_transformers(kind, tmp_path, waveform):
    original = write(kind, tmp_path, attn_implementation="eager")
    backbone = load_backbone(tmp_path)
    seen: list[torch.Tensor] = []
    for layer in original.encoder.layers:  # what each layer gives, whatever is done with it later
        layer.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        states = original(waveform, output_hidden_states=True).hidden_states[1:]
        layers = list(backbone.layers(waveform))
    assert len(layers) == backbone.config.n_layers == 3
    for ours, theirs in zip(layers, seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    if not original.config.do_stable_layer_norm:
        for ours, theirs in zip(layers, states, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FAMILY)
def test_what_a_config_tells_changes_the_layers(kind, tmp_path, waveform):
    """The same weights under another head count or norm order give other numbers."""
    write(kind, tmp_path)
    with torch.no_grad():
        right = load_backbone(tmp_path)(waveform)
        config = json.loads((tmp_path / "config.json").read_text())
        for change in (
            {"do_stable_layer_norm": not config["do_stable_layer_norm"]},
            {"num_attention_heads": 6},
        ):
            if "wavlm" in kind and "num_attention_heads" in change:
                continue  # its weights tell
            (tmp_path / "config.json").write_text(json.dumps(config | change))
            assert (load_backbone(tmp_path)(waveform) - right).abs().max() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", FAMILY)
def test_a_detector_on_any_of_them_trains_and_comes_back(kind, tmp_path, waveform, checkpointing):
    write(kind, tmp_path / "foreign")
    backbone = load_backbone(tmp_path / "foreign")
    backbone.checkpointing = checkpointing
    detector = Detector(DetectorConfig(backbone.config, 8, n_samples=4000), seed=0)
    detector.backbone = backbone
    backbone.freeze("none")
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1)
    detector.train()(waveform)[:, 1].sum().backward()
    wanting = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert wanting == {name for name, p in detector.named_parameters() if p.grad is not None}
    optimizer.step()
    last = "backbone.model.encoder.layers.0.feed_forward.output_dense.weight"
    assert not torch.equal(before[last], dict(detector.named_parameters())[last])
    detector.eval().save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors")
    assert again.config == detector.config
    with torch.no_grad():
        torch.testing.assert_close(again(waveform), detector(waveform))


@pytest.mark.parametrize("kind", ["wavlm-large", "hubert-large", "xls-r-1b"])
def test_a_recipe_takes_any_of_them_the_whole_way(kind, corpora, tmp_path):
    write(kind, tmp_path / "foreign")
    chosen = recipe(backbone=str(tmp_path / "foreign"), max_epochs=2)
    best = train(chosen, tmp_path / "run", data=corpora, progress=False)
    train(chosen, tmp_path / "again", data=corpora, progress=False, max_steps=4)
    train(chosen, tmp_path / "again", data=corpora, progress=False, resume=True)
    first, second = weights(tmp_path / "run"), weights(tmp_path / "again")
    assert all(torch.equal(first[tensor], second[tensor]) for tensor in first)
    moved = "model.backbone.model.encoder.layers.2.feed_forward.output_dense.weight"
    start = load_backbone(tmp_path / "foreign").state_dict()
    assert not torch.equal(first[moved], start[moved.removeprefix("model.backbone.")])
    made = score(str(best), "asvspoof2019-la:dev", tmp_path / "s.txt", data=corpora, progress=False)
    assert made["n_scores"] == 8
    key = open_corpus("asvspoof2019-la:dev", corpora).protocol
    assert 0 <= evaluate(tmp_path / "s.txt", key)["eer_percent"] <= 100


def test_the_norm_of_a_post_norm_encoder_is_trained():
    for pre_norm in (True, False):
        backbone = XLSR(XLSRConfig(width=16, n_layers=1, conv_width=8, pre_norm=pre_norm))
        backbone.freeze("none")
        assert backbone.model.encoder.layer_norm.weight.requires_grad != pre_norm
        backbone.freeze("backbone")
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("wav2vec2-base", {"hidden_act": "relu"}),
        ("wav2vec2-base", {"feat_extract_activation": "relu"}),
        ("hubert-base", {"layer_norm_eps": 1e-12}),
        ("wav2vec2-base", {"conv_stride": [5, 2, 2, 2, 2, 2, 1]}),
        ("wavlm-base", {"max_bucket_distance": 400}),
        ("xls-r-1b", {"num_hidden_layers": 2}),
        ("hubert-base", {"model_type": "holds data2vec-audio"}),
        ("xls-r-1b", {"do_stable_layer_norm": None}),
    ],
)
def test_what_is_not_computed_is_refused_by_name(kind, change, tmp_path):
    write(kind, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    name = {
        "conv_stride": "strides",
        "do_stable_layer_norm": "pre_norm",
        "model_type": "holds data2vec-audio",
    }.get(*change, *change)
    with pytest.raises(CheckpointError, match=name):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "tensor"),
    [
        ("hubert-base", {"feat_proj_layer_norm": False}, "feature_projection.layer_norm"),
        ("hubert-base", {"conv_pos_batch_norm": True}, "pos_conv_embed"),
        ("xls-r-1b", {"adapter_attn_dim": 2}, "adapter"),
        ("xls-r-1b", {"add_adapter": True}, "adapter"),
        ("wavlm-base", {"num_buckets": 32}, "rel_attn_embed"),
    ],
)
def test_parts_that_are_not_computed_are_refused_by_name(kind, changes, tensor, tmp_path):
    write(kind, tmp_path, **changes)
    with pytest.raises(CheckpointError, match=tensor):
        load_backbone(tmp_path)


def fairseq_settings(**changes: Any) -> dict[str, Any]:
    """Return what fairseq says of an XLS-R of the tests' size."""
    layers = "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8,2,2)] + [(8,2,2)]"
    return {
        "encoder_attention_heads": 2,
        "encoder_layers": 3,
        "layer_norm_first": True,
        "activation_fn": "gelu",
        "extractor_mode": "layer_norm",
        "conv_bias": True,
        "conv_feature_layers": layers,
    } | changes


def fairseq_name(name: str) -> str:
    """Return fairseq's name of a tensor of transformers, written without the package's table."""
    for ours, theirs in (
        (".conv.parametrizations.weight.original0", ".0.weight_g"),
        (".conv.parametrizations.weight.original1", ".0.weight_v"),
        ("pos_conv_embed.conv.bias", "pos_conv.0.bias"),
        ("pos_conv_embed", "pos_conv"),
        (".conv.weight", ".0.weight"),
        ("conv_layers.0.layer_norm", "conv_layers.0.2"),
        ("feature_projection.layer_norm", "layer_norm"),
        ("feature_projection.projection", "post_extract_proj"),
        ("feed_forward.intermediate_dense", "fc1"),
        ("feed_forward.output_dense", "fc2"),
        (".attention.", ".self_attn."),
    ):
        name = name.replace(ours, theirs)
    in_layer = name.startswith("encoder.layers.")
    return name.replace(".layer_norm", ".self_attn_layer_norm") if in_layer else name


def test_fairseqs_base_models_are_told_by_their_settings(tmp_path, waveform):
    """With one group norm, and the norms after attention and after the feed-forward part."""
    original = write("wav2vec2-base", tmp_path)
    state = {fairseq_name(n): t for n, t in original.state_dict().items() if "masked" not in n}
    told = {"layer_norm_first": False, "extractor_mode": "default", "conv_bias": False}
    settings = fairseq_settings(encoder_attention_heads=4, **told)
    torch.save({"cfg": {"model": settings}, "model": state}, tmp_path / "base.pt")
    with torch.no_grad():
        ours, theirs = (load_backbone(tmp_path / n)(waveform) for n in ("base.pt", ""))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activation_fn": "relu"}, "activation_fn"),
        ({"conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 5 + [(8,2,1)]"}, "strides"),
        ({"conv_bias": False}, "bias"),
    ],
)
def test_other_settings_of_fairseq_are_refused_by_name(tmp_path, change, says):
    state = authors_file(Detector(DETECTOR, seed=1).backbone)
    model = {n.removeprefix("ssl_model.model."): t for n, t in state.items()}
    model = {n.removeprefix("model."): t for n, t in model.items()}
    path = tmp_path / "xlsr.pt"
    torch.save({"cfg": {"model": fairseq_settings()}, "model": model}, path)
    assert load_backbone(path).config.heads == 2
    torch.save({"cfg": {"model": fairseq_settings(**change)}, "model": model}, path)
    with pytest.raises(CheckpointError, match=says):
        load_backbone(path)
    told = fairseq_settings()
    del told["layer_norm_first"]
    torch.save({"cfg": {"model": told}, "model": model}, path)
    with pytest.raises(CheckpointError, match="pre_norm"):
        load_backbone(path)


@pytest.mark.parametrize("kind", ["xls-r-1b", "wav2vec2-base", "wavlm-large"])
def test_a_bare_file_is_asked_for_what_it_does_not_tell(kind, tmp_path, waveform):
    original = write(kind, tmp_path / "folder")
    for name in ("bare.safetensors", "model.safetensors", "bare.pth"):
        path = tmp_path / name
        state = original.state_dict()
        (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
        with pytest.raises(CheckpointError, match=rf"{name} .*number of heads.*--n-heads"):
            load_backbone(path)
        if kind == "xls-r-1b":
            backbone = load_backbone(path, n_heads=2)
            with torch.no_grad():
                wanted = load_backbone(tmp_path / "folder")(waveform)
                assert torch.equal(backbone(waveform), wanted)
        else:  # heads do not tell where its norms are
            with pytest.raises(CheckpointError, match=r"config\.json"):
                load_backbone(path, n_heads=4)


def test_the_authors_size_needs_no_heads_and_other_sizes_do():
    def tensors(width: int, layers: int) -> dict[str, torch.Tensor]:
        config = XLSRConfig(width=width, n_layers=layers, ffn_width=8, conv_width=8)
        with torch.device("meta"):
            return Detector(DetectorConfig(config)).state_dict()

    xls_r = dimensions(tensors(1024, 24), {}, None)
    assert xls_r["backbone"]["n_heads"] == 16
    for width, layers in ((1280, 48), (1920, 48), (1024, 12), (768, 12)):
        with pytest.raises(ConfigError, match=r"number of heads.*--n-heads"):
            dimensions(tensors(width, layers), {}, None)
        told = dimensions(tensors(width, layers), {}, 16)
        assert told["backbone"]["n_heads"] == 16


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {}},
        lambda state: {"model_ema": state, "epoch": 3},
        lambda state: {"net": state, "epoch": torch.tensor(3), "optimizer": {"state": {}}},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"model.{name}": t for name, t in state.items()}},
    ],
)
def test_wrapped_state_dicts_are_unwrapped(tmp_path, wrap):
    detector, path = Detector(DETECTOR, seed=1), tmp_path / "epoch_2.pth"
    torch.save(wrap(authors_file(detector)), path)
    loaded = Detector.load(path, n_heads=2).state_dict()
    assert all(torch.equal(t, loaded[name]) for name, t in detector.state_dict().items())


def test_of_several_models_none_is_guessed(tmp_path):
    state, path = authors_file(Detector(DETECTOR, seed=1)), tmp_path / "epoch_2.pth"
    torch.save({"model": state, "model_ema": state, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="model and model_ema"):
        Detector.load(path, n_heads=2)


def test_averaged_weights_are_loaded(tmp_path, waveform):
    """PyTorch counts the averaged models, and other averages make a float of BatchNorm's count."""
    detector, path = Detector(DETECTOR, seed=1).eval(), tmp_path / "swa.pth"
    averaged = torch.optim.swa_utils.AveragedModel(detector)
    state = authors_file(averaged.module) | {"n_averaged": averaged.n_averaged}
    state["first_bn.num_batches_tracked"] = torch.tensor(812.5)
    torch.save(state, path)
    loaded = Detector.load(path, n_heads=2)
    assert loaded.head.norm.num_batches_tracked.dtype == torch.int64
    with torch.no_grad():
        head = loaded.head.fuse(loaded.backbone.layers(waveform))[0]
        assert torch.equal(head, detector.head.fuse(detector.backbone.layers(waveform))[0])


@pytest.mark.parametrize("network", [Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification])
@pytest.mark.parametrize("weighted", [False, True])
def test_heads_of_other_tasks_are_left_aside(tmp_path, waveform, network, weighted):
    config = Wav2Vec2Config(**(TINY | XLS_R), use_weighted_layer_sum=weighted)
    model = network(config).eval()
    model.save_pretrained(tmp_path)
    parts = "classifier, layer_weights, projector" if weighted else "classifier, projector"
    left = f"{'lm_head' if network is Wav2Vec2ForCTC else parts} is not used"
    told = pytest.warns(UserWarning, match=rf"model\.safetensors: {left}")
    with told, pytest.raises(CheckpointError, match="without an SLS head"):
        Detector.load(tmp_path)
    seen: list[torch.Tensor] = []
    model.wav2vec2.encoder.layers[-1].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), pytest.warns(UserWarning, match=left):
        model(waveform)
        torch.testing.assert_close(load_backbone(tmp_path)(waveform)[:, -1], seen[0])
    with pytest.warns(UserWarning, match=left):
        convert(tmp_path, tmp_path / "own.safetensors")


def test_a_model_in_parts_is_put_together(tmp_path, waveform):
    whole = write("wavlm-base", tmp_path / "whole")
    whole.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    with torch.no_grad():
        ours, theirs = (load_backbone(tmp_path / n)(waveform) for n in ("parts", "whole"))
    assert torch.equal(ours, theirs)
    convert(tmp_path / "parts", tmp_path / "one.safetensors")
    with torch.no_grad():
        assert torch.equal(load_backbone(tmp_path / "one.safetensors")(waveform), theirs)
    lost = sorted((tmp_path / "parts").glob("*.safetensors"))[-1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=lost.name):
        load_backbone(tmp_path / "parts")


def aasist() -> dict[str, torch.Tensor]:
    state = authors_file(Detector(DETECTOR))
    return {n: t for n, t in state.items() if n.startswith("ssl_model.")} | {
        "LL.weight": torch.zeros(4, 16),
        "first_bn.weight": torch.zeros(1),
        "GAT_layer_S.att_proj.weight": torch.zeros(4, 4),
    }


def nes2net() -> dict[str, torch.Tensor]:
    return {"module.Nested_Res2Net_TDNN.bn.weight": torch.zeros(4)}


@pytest.mark.parametrize(("make", "name"), [(aasist, "AASIST"), (nes2net, "Nes2Net")])
@pytest.mark.parametrize("load", [Detector.load, load_backbone])
def test_other_detectors_are_named(tmp_path, load, make: Callable, name):
    torch.save(make(), tmp_path / "best.pth")
    with pytest.raises(CheckpointError, match=rf"best\.pth .*{name}"):
        load(tmp_path / "best.pth", n_heads=2)


@pytest.mark.parametrize("n_heads", [None, 2])
@pytest.mark.parametrize("load", [Detector.load, load_backbone])
def test_a_part_of_another_model_is_named_before_heads_are_asked_for(tmp_path, load, n_heads):
    state = authors_file(Detector(DETECTOR)) | {"conformer.0.weight": torch.zeros(4)}
    torch.save(state, tmp_path / "best.pth")
    with pytest.raises(CheckpointError, match=r"conformer\.0\.weight', of another model; give"):
        load(tmp_path / "best.pth", n_heads=n_heads)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_two_tensors_of_one_name_are_refused(tmp_path, prefix, ending):
    state = authors_file(Detector(DETECTOR))
    state |= {f"{prefix}fc0.weight": state["fc0.weight"] + 1}
    path = tmp_path / f"a.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, path)
    with pytest.raises(CheckpointError, match=r"tensors have one name"):
        Detector.load(path, n_heads=2)


def as_numpy_1(path: Path) -> None:
    """Let a file name NumPy's functions as NumPy 1 does."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"numpy._core", b"numpy.core"))


def test_scalars_of_numpy_1_beside_the_weights(tmp_path):
    detector, path = Detector(DETECTOR, seed=1), tmp_path / "epoch_2.pth"
    torch.save({"model": authors_file(detector), "best_eer": np.float64(1.5)}, path)
    as_numpy_1(path)
    assert b"numpy.core.multiarray" in path.read_bytes()
    loaded = Detector.load(path, n_heads=2)
    assert torch.equal(loaded.head.hidden.weight, detector.head.hidden.weight)


def test_our_own_pth_keeps_what_tensors_do_not_tell(tmp_path, waveform):
    config = DetectorConfig(DIMENSIONS, hidden_width=8, n_samples=4300)
    detector = Detector(config, seed=1).eval()
    detector.save(tmp_path / "a.safetensors", {"dev_eer_threshold": 0.5})
    for data_parallel in (False, True):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pth", data_parallel=data_parallel)
        loaded = Detector.load(tmp_path / "b.pth")
        assert loaded.config == config
        assert loaded.metadata == {"dev_eer_threshold": 0.5}
        convert(tmp_path / "b.pth", tmp_path / "c.safetensors")
        again = Detector.load(tmp_path / "c.safetensors")
        assert again.config == config
        assert again.metadata == {"dev_eer_threshold": 0.5}
        assert again.state_dict().keys() == detector.state_dict().keys()
    with torch.no_grad():
        x = torch.nn.functional.pad(waveform, (0, 300))
        assert torch.equal(again(x), detector(x))


def test_a_strict_load_takes_our_pth_and_its_description(tmp_path):
    """Into bare modules of the same names, as the authors' model is one to PyTorch."""
    Detector(DETECTOR, seed=1).save(tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    assert isinstance(state, OrderedDict)
    model = nn.Module()
    for name, tensor in state.items():
        *folders, leaf = name.split(".")
        module = model
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, nn.Module())
            module = module.get_submodule(folder)
        module.register_buffer(leaf, torch.empty_like(tensor))
    result = model.load_state_dict(state, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(model.get_buffer("fc1.weight"), state["fc1.weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_refusals_never_advise_to_load_without_protection(tmp_path, zipped):
    path = tmp_path / "a.pth"
    torch.save({"model": Path("x")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pathlib\.") as error:
        load_backbone(path)
    assert not any(word in str(error.value) for word in ("weights_only", "safe_globals", "trust"))


def test_files_of_before_are_read_as_xls_r(tmp_path):
    """The packaged weights lack the fields that tell architectures apart."""
    for part in ("detector", "backbone"):
        with safe_open(locate("mini", part), framework="pt") as file:
            told = json.loads(file.metadata()["slslib"])["config"]["backbone"]
        assert "pre_norm" not in told
    config = load_backbone("mini").config
    assert (config.pre_norm, config.group_norm, config.conv_bias, config.wavlm) == (
        True,
        False,
        True,
        False,
    )
    assert load_file(locate("mini")).keys() == Detector.load("mini").state_dict().keys()
