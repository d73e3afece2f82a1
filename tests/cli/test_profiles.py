"""slurm-mig profiles: of this node as its driver says, of any GPU as the table says."""

import json

import pytest

from slurm_mig import table
from slurm_mig.layouts import NAMED

MODELS = table.entries()


def lines(text):
    """Lines without trailing blanks."""
    return [line.rstrip() for line in text.splitlines()]


A30 = """\
A30-24GB
--gres             MEMORY  SM  MAX  PLACEMENTS       MEDIA
mig:1g.6gb       5.81 GiB  14    4  0:1 1:1 2:1 3:1  dec 1 enc 0 jpeg 0 ofa 0
mig:1g.6gb+me    5.81 GiB  14    1  0:1 1:1 2:1 3:1  dec 1 enc 0 jpeg 1 ofa 1
mig:2g.12gb     11.69 GiB  28    2  0:2 2:2          dec 2 enc 0 jpeg 0 ofa 0
mig:2g.12gb+me  11.69 GiB  28    1  0:2 2:2          dec 2 enc 0 jpeg 1 ofa 1
mig:4g.24gb     23.44 GiB  56    1  0:4              dec 4 enc 0 jpeg 1 ofa 1
layout whole: 4g.24gb:1
layout halves: 2g.12gb:2
layout balanced: 2g.12gb:1,1g.6gb:2
layout small: 1g.6gb:4
"""


def test_a_model_exactly(run):
    """A GPU whose numbers are all known: the table as it is printed."""
    said = run("profiles", "--gpu", "A30-24GB", "--layouts")
    assert (said.status, said.err) == (0, "")
    assert lines(said.out) == A30.splitlines()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.key)
def test_every_model(run, model):
    """Every GPU of the table: all profiles and layouts, and what is not known is not made up."""
    said = run("profiles", "--gpu", model.key, "--layouts")
    assert (said.status, said.err) == (0, "")
    title, _, *rows = lines(said.out)
    named = [row.split()[0] for row in rows[: len(model.geometry.profiles)]]
    assert named == [f"mig:{profile.name}" for profile in model.geometry.profiles]
    assert [row.split(":")[0] for row in rows[len(named) :]] == [f"layout {name}" for name in NAMED]
    doubt = title.removeprefix(model.key)
    if model.inferred or model.unknown:
        assert doubt.startswith("  (inferred: ")
        assert all(field in doubt for field in (*model.inferred, *model.unknown))
    else:
        assert doubt == ""
    for profile, row in zip(model.geometry.profiles, rows, strict=False):
        assert ("?" in row) == (
            any(
                not value and field in model.unknown
                for value, field in (
                    (profile.memory_mb, "memory_size_mb"),
                    (profile.multiprocessors, "multiprocessor_count"),
                    (profile.decoders, "decoder_count"),
                    (profile.encoders, "encoder_count"),
                    (profile.jpegs, "jpeg_count"),
                    (profile.ofas, "ofa_count"),
                )
            )
        )


def test_json_of_a_model(run):
    """The JSON of a model: unknown numbers are null, and which fields were inferred is said."""
    said = run("profiles", "--gpu", "B200-180GB", "--json")
    document = json.loads(said.out)
    assert (said.status, said.err, document["version"]) == (0, "", 1)
    (model,) = document["models"]
    assert set(model) == {"model", "inferred", "unknown", "memory_slices", "profiles"}
    assert (model["model"], model["memory_slices"]) == ("B200-180GB", 8)
    assert "placements" in model["inferred"]
    assert "memory_size_mb" in model["unknown"]
    by_name = {profile["name"]: profile for profile in model["profiles"]}
    assert by_name["7g.180gb"]["memory_mb"] is None
    small = by_name["1g.23gb"]
    assert set(small) == {
        *("name", "index", "id", "slices", "max_count", "memory_mb", "multiprocessors"),
        *("copy_engines", "decoders", "encoders", "jpegs", "ofas", "placements"),
    }
    assert (small["slices"], small["decoders"], small["placements"][:2]) == (1, 1, ["0:1", "1:1"])


@pytest.mark.parametrize("name", ["NVIDIA A30", "A30", "A30-24GB"])
def test_names_of_a_model(run, name):
    """A model may be named by its key, or as NVML names it, with the vendor or without."""
    said = run("profiles", "--gpu", name)
    assert (said.status, lines(said.out)[0]) == (0, "A30-24GB")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("A100-SXM4-40", "; did you mean 'A100-SXM4-40GB'?"),
        ("H200-NVL", "; did you mean 'H200-NVL-141GB'?"),
        ("zzz", "; known: A100-PCIE-40GB, "),
    ],
)
def test_unknown_model(run, name, hint):
    """An unknown model names the nearest, or all."""
    said = run("profiles", "--gpu", name)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"slurm-mig: no GPU model {name!r} in the table{hint}")
    assert said.err.count("\n") == 1


def test_node(make):
    """On a node: each model once, from the driver, with its version; a GPU without MIG is none."""
    admin = make("A100-SXM4-40GB:2", "A30-24GB", layout=None)
    said = admin("profiles")
    assert said.status == 0
    titles = [line for line in lines(said.out) if "(driver " in line]
    assert [title.split()[0] for title in titles] == ["A100-SXM4-40GB", "A30"]
    rows = [line for line in lines(said.out) if line.startswith("mig:")]
    # In the order in which the driver numbers them.
    assert sorted(rows[-5:]) == [row for row in A30.splitlines() if row.startswith("mig:")]
    said = admin("profiles", "--json")
    models = json.loads(said.out)["models"]
    assert [model["model"] for model in models] == ["A100-SXM4-40GB", "A30"]
    assert all(model["driver"] for model in models)


def test_node_out_of_mig_mode(make):
    """What could be asked for is shown before MIG mode is on, too, as far as the driver tells."""
    admin = make("A30-24GB", layout=None, mig_enabled=False)
    said = admin("profiles")
    assert said.status == 0
    rows = [line for line in lines(said.out) if line.startswith("mig:")]
    assert sorted(rows) == [row for row in A30.splitlines() if row.startswith("mig:")]
