"""docs/same_code.py: changed code that trains to the same bits is told as such, any other is named."""

from __future__ import annotations

import json
import shutil

from _harness.pages import ROOT, script
from _harness.plans import TINY

from congruence.bench.desk import Desk
from congruence.bench.identity import Identities, differs
from congruence.bench.kept import RESULTS, SAME, Shelf
from congruence.bench.planfile import load_plan


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_code_of_the_same_bits_and_of_others(tmp_path, monkeypatch):
    """The code of pkt is written otherwise, and kd is another loss."""
    for name in ("before", "after"):
        for part in ("src", "recipes", "plans"):
            shutil.copytree(ROOT / part, tmp_path / name / part, ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / name / "plans" / "tiny.toml").write_text(TINY.replace('ce = "digits/ce"', 'pkt = "digits/pkt"'))
        kept = tmp_path / name / "results" / "tiny"
        kept.mkdir(parents=True)
        rows = ({"method": method, "variant": ""} for method in ("pkt", "kd"))
        (kept / RESULTS).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    losses = tmp_path / "after" / "src" / "congruence" / "losses"
    edit(losses / "pkt.py", "\nclass ", "\n_UNUSED = 1\n\n\nclass ")
    edit(losses / "kd.py", "temperature**2", "temperature**2.01")
    module = script("same_code")
    monkeypatch.setattr(
        module, "load_plan", lambda name: load_plan(str(tmp_path / "before" / "plans" / f"{name}.toml"))
    )
    same, differ = module.compare("tiny", tmp_path / "before", tmp_path / "after", few=())
    old, new = (module.codes(tmp_path / name)["pkt"] for name in ("before", "after"))
    assert old != new
    assert same == {new: old}
    assert differ == ["kd-seed0"]


def test_a_kept_line_stays_where_the_code_is_the_same(tmp_path):
    for folder in ("plans", "results/tiny"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "plans" / "tiny.toml").write_text(TINY)
    plan = load_plan(str(tmp_path / "plans" / "tiny.toml"))
    (cell,) = plan.only(methods=["ce"]).cells()
    plain = Desk(plan, tmp_path / "runs")._identities.of_cell(cell, "teacher")
    now = script("same_code").codes(ROOT)["ce"]
    (tmp_path / "results" / "tiny" / SAME).write_text(json.dumps({now: {"as": "older", "commit": "0"}}))
    desk = Desk(plan, tmp_path / "runs")
    assert desk.shelf.same == ({now: "older"},)
    assert desk._identities.of_cell(cell, "teacher") != plain
    assert Shelf(None).same == ()
    (told,) = Desk(plan, tmp_path / "runs", afresh=True).jobs([cell]).values()
    (kept,) = desk.jobs([cell]).values()
    assert told.made == kept.made  # cells that are trained again are of the same code, too


def test_lines_made_without_a_record_of_the_same_code_stay_too(tmp_path):
    """Trained by the new code before anybody had looked whether it is the same, or in a checkout without one record."""
    (tmp_path / "tiny.toml").write_text(TINY)
    (cell,) = load_plan(str(tmp_path / "tiny.toml")).only(methods=["kd"]).cells()
    codes = script("same_code").codes(ROOT)
    records = ({codes["ce"]: "older ce"}, {codes["kd"]: "older kd"}, {"another": "older"})
    wanted = Identities(same=records).of_cell(cell, "teacher")
    made = [Identities(same=some).of_cell(cell, "teacher") for some in ((), records[:1], records[1:], records)]
    assert len({each["code"] for each in made}) == 4
    assert [differs({"made": dict(each)}, wanted) for each in made] == [""] * 4
    assert differs({"made": {**wanted, "code": "another"}}, wanted) == "code"
    assert differs({"made": dict(wanted)}, made[0]) == "code"
