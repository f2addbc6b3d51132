"""What is solved is on the disk at once, and a line that a killed process left unfinished is done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.errors import ConfigError
from estimator.plan.store import FILE, Store
from estimator.plan.work import Solved

pytestmark = pytest.mark.pure


def fill(folder: Path, *keys: str) -> None:
    with Store(folder) as store:
        store.add(Solved(key, {"max_batch_size": len(key)}) for key in keys)


def test_results_are_there_again(tmp_path: Path) -> None:
    fill(tmp_path / "new" / "folder", "a", "bb")
    with Store(tmp_path / "new" / "folder") as store:
        assert store.results == {"a": {"max_batch_size": 1}, "bb": {"max_batch_size": 2}}
        assert store.dropped == 0


@given(st.integers(0, 200))
def test_a_torn_line_is_cut_off_and_what_is_whole_stays(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, "a", "bb", "ccc")
        path = folder / FILE
        whole = path.read_bytes()
        path.write_bytes(whole[: max(0, len(whole) - cut)])
        kept = whole[: max(0, len(whole) - cut)].count(b"\n")
        with Store(folder) as store:
            assert list(store.results) == ["a", "bb", "ccc"][:kept]
            store.add([Solved("dddd", {})])
        lines = path.read_bytes().splitlines()
        assert [json.loads(line)["key"] for line in lines] == [*["a", "bb", "ccc"][:kept], "dddd"]


def test_a_line_that_is_no_result_is_told_and_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    path = tmp_path / FILE
    path.write_bytes(b'not json\n{"key": 3, "result": {}}\n[]\n' + path.read_bytes())
    with Store(tmp_path) as store:
        assert (list(store.results), store.dropped) == (["a"], 3)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Store(tmp_path), pytest.raises(ConfigError, match="another process"), Store(tmp_path):
        pass
    with Store(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from estimator.plan.store import Store
from estimator.plan.work import Solved
with Store(Path({os.fspath(tmp_path)!r})) as store:
    store.add([Solved("a", {{}})])
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == -9
    with Store(tmp_path) as store:
        assert list(store.results) == ["a"]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"), Store(tmp_path / "new"):
        pass


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), Store(tmp_path / "file"):
        pass
