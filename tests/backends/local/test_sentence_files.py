"""Reading sentence-transformers' files: followed where they can be, refused where they cannot."""

import json

import pytest

from illm.backends.local.sentence_files import DenseFiles, Recipe, read_recipe
from illm.errors import GatewayError, Kind

OLD = "sentence_transformers.models."


def write(directory, path, content):
    file = directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def modules(directory, *steps):
    write(
        directory, "modules.json", [{"idx": i, "name": str(i), "path": p, "type": t} for i, (t, p) in enumerate(steps)]
    )


BASE = ((OLD + "Transformer", ""), (OLD + "Pooling", "1_Pooling"))


def test_without_files_it_is_the_mean_at_unit_length(tmp_path):
    assert read_recipe(tmp_path, "m") == Recipe(tmp_path, modes=("mean",), normalise=True)


def test_everything_the_files_say(tmp_path):
    modules(tmp_path, *BASE, (OLD + "Dense", "2_Dense"), (OLD + "Normalize", "3_Normalize"))
    write(tmp_path, "1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    write(tmp_path, "2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"})
    write(tmp_path, "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True})
    write(tmp_path, "config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    assert read_recipe(tmp_path, "m") == Recipe(
        tmp_path,
        modes=("cls",),
        dense=(DenseFiles(tmp_path / "2_Dense", "Tanh"),),
        normalise=True,
        limit=256,
        lower=True,
        prefix="query: ",
        prompts={"q": "query: "},
    )


def test_no_normalisation_unless_the_files_say_so(tmp_path):
    modules(tmp_path, *BASE)
    assert read_recipe(tmp_path, "m").normalise is False


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["cls", "mean"]}, ("cls", "mean")),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
    ],
)
def test_pooling_modes(tmp_path, pooling, modes):
    modules(tmp_path, *BASE)
    write(tmp_path, "1_Pooling/config.json", pooling)
    assert read_recipe(tmp_path, "m").modes == modes


def test_newer_class_names_and_a_transformer_in_its_own_folder(tmp_path):
    modules(
        tmp_path,
        ("sentence_transformers.base.modules.transformer.Transformer", "0_Transformer"),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
        (OLD + "Dropout", "2_Dropout"),
    )
    assert read_recipe(tmp_path, "m") == Recipe(tmp_path / "0_Transformer", normalise=False)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (BASE[0],),
        (BASE[1], BASE[0]),
        (*BASE, (OLD + "Normalize", "2"), (OLD + "Dense", "3")),
        (*BASE, (OLD + "LSTM", "2_LSTM")),
        ((OLD + "Transformer", "../elsewhere"), BASE[1]),
        ((OLD + "Transformer", "/etc"), BASE[1]),
        ((OLD + "Transformer", "..\\up"), BASE[1]),
    ],
)
def test_pipelines_that_we_would_run_differently_are_refused(tmp_path, steps):
    modules(tmp_path, *steps)
    with pytest.raises(GatewayError) as caught:
        read_recipe(tmp_path, "some/model")
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED
    assert "some/model" in caught.value.message


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"type": "x"}]', "null"])
def test_broken_files_are_refused(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(GatewayError):
        read_recipe(tmp_path, "m")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}),
        ("2_Dense/config.json", {"use_residual": True}),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}),
    ],
)
def test_settings_that_we_do_not_know_are_refused(tmp_path, path, content):
    modules(tmp_path, *BASE, (OLD + "Dense", "2_Dense"))
    write(tmp_path, path, content)
    with pytest.raises(GatewayError):
        read_recipe(tmp_path, "m")


def test_a_prompt_left_out_of_the_pooling_is_refused(tmp_path):
    modules(tmp_path, *BASE)
    write(tmp_path, "1_Pooling/config.json", {"include_prompt": False})
    assert read_recipe(tmp_path, "m").modes == ("mean",)
    write(tmp_path, "config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    with pytest.raises(GatewayError):
        read_recipe(tmp_path, "m")
