"""The settings of a node: types, origins, near misses, and the reference file."""

import tomllib
from pathlib import Path

import pytest

from slurm_mig import settings, share
from slurm_mig.configfile import load
from slurm_mig.errors import ConfigError


def test_reference_file_is_the_table_of_settings() -> None:
    """templates/config.toml is what reference() prints."""
    assert share.path("templates/config.toml").read_text() == settings.reference()


def test_reference_uncommented_gives_the_defaults() -> None:
    """Every key of the reference, taken literally, is the default it claims to be."""
    lines = [
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in settings.reference().splitlines()
    ]
    document = tomllib.loads("\n".join(lines))
    layout = document.pop("layout")
    assert settings.parse([("reference", document)]) == settings.parse([])
    assert settings.parse([("reference", {"layout": layout})]).layout["default"] == "balanced"


def test_later_document_wins_key_by_key() -> None:
    """A file of config.d replaces single keys and leaves the others."""
    found = settings.parse(
        [
            ("a", {"slurm": {"timeout": 5, "request": "token"}, "layout": {"A30": "small"}}),
            ("b", {"slurm": {"timeout": 7}, "layout": {"default": "whole"}}),
        ]
    )
    assert (found.slurm_timeout, found.slurm_request) == (7.0, "token")
    assert dict(found.layout) == {"A30": "small", "default": "whole"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"drivr": {}},
            "f.toml: unknown section [drivr]; did you mean 'driver'?",
        ),
        (
            {"driver": {"libary": "x"}},
            "f.toml: unknown key 'libary' in [driver]; did you mean 'library'?",
        ),
        (
            {"driver": {"zzz": 1}},
            "f.toml: unknown key 'zzz' in [driver]; known: library, root",
        ),
        (
            {"driver": {"root": "relative"}},
            "f.toml: [driver] root must be an absolute path, not 'relative'",
        ),
        (
            {"slurm": {"timeout": "soon"}},
            "f.toml: [slurm] timeout must be seconds, not 'soon'",
        ),
        (
            {"slurm": {"timeout": True}},
            "f.toml: [slurm] timeout must be seconds, not True",
        ),
        (
            {"prolog": {"misses": 0}},
            "f.toml: [prolog] misses must be a count, not 0",
        ),
        (
            {"slurm": {"client": "rest"}},
            'f.toml: [slurm] client must be "auto", "scontrol" or "pyslurm", not \'rest\'',
        ),
        ({"epilog": {"drain": 1}}, "f.toml: [epilog] drain must be true or false, not 1"),
        ({"driver": 3}, "f.toml: [driver] must be a table, not 3"),
        ({"layout": 3}, "f.toml: [layout] must be a table of GPU models, not 3"),
        (
            {"layout": {"A30": {"1g.6gb": 0}}},
            (
                "f.toml: [layout] 'A30' must be a layout's name or a table of counts such as "
                '{ "3g.20gb" = 1, "1g.5gb" = 2 }, not {\'1g.6gb\': 0}'
            ),
        ),
        (
            {"gpus": {"mig": "0-"}},
            'f.toml: [gpus] mig must be "all" or device minors such as "0-3,5", not \'0-\'',
        ),
        (
            {"gpus": {"mig": [0, 1]}},
            'f.toml: [gpus] mig must be "all" or device minors such as "0-3,5", not [0, 1]',
        ),
        (
            {"gpus": {"mig": ""}},
            'f.toml: [gpus] mig must be "all" or device minors such as "0-3,5", not \'\'',
        ),
        (
            {"gpus": {"mgi": "all"}},
            "f.toml: unknown key 'mgi' in [gpus]; did you mean 'mig'?",
        ),
        (
            {"driver": {"library": "a\nb"}},
            "f.toml: [driver] library must be a file name or an absolute path, not 'a\\nb'",
        ),
    ],
)
def test_bad_settings_are_one_sentence(document: dict[str, object], message: str) -> None:
    """An error names file, section, key, what it takes and the nearest known word."""
    with pytest.raises(ConfigError) as caught:
        settings.parse([("f.toml", document)])
    assert str(caught.value) == message


def test_layout_of_a_model_by_any_of_its_names() -> None:
    """A layout is found with or without the vendor's name; default is for the rest."""
    found = settings.parse(
        [("f", {"layout": {"A100-SXM4-40GB": "halves", "NVIDIA A30": "small", "default": "whole"}})]
    )
    assert found.layout_of("NVIDIA A100-SXM4-40GB") == "halves"
    assert found.layout_of("A30") == "small"
    assert found.layout_of("NVIDIA H200") == "whole"
    assert settings.parse([]).layout_of("NVIDIA H200") is None


def test_gpus_to_partition() -> None:
    """A list of device minors is kept in its shortest form; without one there is no list."""
    assert (settings.parse([]).gpus_mig, settings.parse([]).mig_minors) == ("all", None)
    found = settings.parse([("f", {"gpus": {"mig": "5, 0,1,2-3"}})])
    assert (found.gpus_mig, found.mig_minors) == ("0-3,5", (0, 1, 2, 3, 5))


class TestFiles:
    """Reading configuration files."""

    def test_folder_beside_the_file(self, tmp_path: Path) -> None:
        """config.d/*.toml beside the file is read after it, in order of names."""
        main = tmp_path / "config.toml"
        main.write_text("[slurm]\ntimeout = 1\n")
        (tmp_path / "config.d").mkdir()
        (tmp_path / "config.d/20.toml").write_text("[slurm]\ntimeout = 3\n")
        (tmp_path / "config.d/10.toml").write_text("[slurm]\ntimeout = 2\n")
        assert load(main).slurm_timeout == 3.0

    def test_missing_file_is_an_error_only_when_named(self, tmp_path: Path) -> None:
        """A file that somebody named must exist."""
        with pytest.raises(ConfigError, match="no such configuration file"):
            load(tmp_path / "none.toml")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"[driver\n", "not valid TOML: "),
            (b"\xff\xfe", "not valid TOML: "),
            (b"a = 1\na = 2\n", "not valid TOML: "),
        ],
    )
    def test_not_toml(self, tmp_path: Path, content: bytes, message: str) -> None:
        """A file that is no TOML is one sentence with its name."""
        path = tmp_path / "config.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {message}")

    def test_root_reads_only_what_root_alone_can_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A configuration names the library that root loads; if others can write it, no."""
        path = tmp_path / "config.toml"
        path.write_text("")
        path.chmod(0o666)
        monkeypatch.setattr("os.geteuid", lambda: 0)
        with pytest.raises(ConfigError, match="files that root alone can write"):
            load(path)
