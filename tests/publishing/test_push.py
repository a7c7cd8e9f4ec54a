"""What reaches a Hub, sent by the real client to `hub_server`, and what is refused before anything is sent."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from card_sample import RECIPE, describe, measure
from hub_server import LOST, TOKEN, Hub, Repo
from huggingface_hub import snapshot_download

from qat_plugin.errors import PublishError
from qat_plugin.publishing import publish_to_folder, push, write_card

REPO = "tester/whisper-tiny-int4"


@pytest.fixture
def folder(onnx_folders: dict[str, Path]) -> Path:
    return onnx_folders["qat"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def expected_files(folder: Path, card_folder: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"README.md": (card_folder / "README.md").read_bytes()}


def test_one_commit_holds_the_folder_and_the_card(online: Hub, folder: Path, card_folder: Path, tmp_path: Path) -> None:
    report = push(folder, card_folder, REPO, private=True)
    repo = online.repo(REPO)
    assert repo.private
    assert [commit.message for commit in repo.commits.values()] == [
        "initial commit", "Upload quantized ONNX and model card",
    ]  # fmt: skip
    assert report.commit_url == f"{online.endpoint}/{REPO}/commit/{repo.branches['main']}"
    sent = online.files(REPO)
    del sent[".gitattributes"]
    assert sent == expected_files(folder, card_folder)
    assert repo.at("main").files["encoder_model.onnx"].lfs
    assert not repo.at("main").files["config.json"].lfs
    # What anyone downloads again.
    back = Path(snapshot_download(REPO, cache_dir=tmp_path / "cache"))
    assert {p.name: p.read_bytes() for p in back.iterdir() if p.name != ".gitattributes"} == sent
    assert online.unknown == []


def test_a_second_push_sends_only_what_changed(
    online: Hub, folder: Path, card_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(folder, card_folder, REPO)
    card = card_folder / "README.md"
    card.write_text(card.read_text() + "\nA remark by hand.\n")
    online.requests.clear()
    capsys.readouterr()
    report = push(folder, card_folder, REPO)
    assert {file.name: file.change for file in report.files} == {
        "README.md": "changed", "config.json": "unchanged", "decoder_model_merged.onnx": "unchanged",
        "encoder_model.onnx": "unchanged", "parity.json": "unchanged", "quantization.json": "unchanged",
    }  # fmt: skip
    assert not [request for request in online.requests if request.startswith("PUT")]
    assert online.files(REPO)["README.md"].endswith(b"A remark by hand.\n")
    assert f"1 of 6 files to send, {card.stat().st_size:,} bytes" in capsys.readouterr().out


def test_the_card_that_is_sent_is_that_of_its_repo(
    online: Hub, folder: Path, card_folder: Path, results_file: Path, tmp_path: Path
) -> None:
    kept = (card_folder / "README.md").read_text()
    push(
        folder,
        card_folder,
        "tester-org/other",
        publishing={"model_license": "mit", "base_model": "openai/whisper-small"},
    )
    sent = online.files("tester-org/other")["README.md"].decode()
    assert 'repo = "tester-org/other"' in sent and REPO not in sent
    assert "\nlicense: mit\n" in sent and "\nbase_model: openai/whisper-small\n" in sent
    assert (card_folder / "README.md").read_text() == kept
    # What is not given now stays as the card has it.
    write_card(results_file, folder, tmp_path / "own", publishing={"model_license": "cc0-1.0", "model_title": "Mine"})
    push(folder, tmp_path / "own", REPO, publishing={"model_license": None})
    own = online.files(REPO)["README.md"].decode()
    assert "\nlicense: cc0-1.0\n" in own and "\n# Mine\n" in own


def test_a_card_edited_by_hand_is_not_rendered_over(online: Hub, folder: Path, card_folder: Path) -> None:
    card = card_folder / "README.md"
    card.write_text(card.read_text() + "\nA remark by hand.\n")
    says = f"was edited by hand and says hub_model_id '{REPO}', not 'tester/other': run `qat-plugin card`"
    with pytest.raises(PublishError, match=says):
        push(folder, card_folder, "tester/other")
    assert online.requests == []


def test_another_revision_is_a_branch_of_its_own(online: Hub, folder: Path, card_folder: Path) -> None:
    push(folder, card_folder, REPO, revision="int4/v2")
    assert set(online.files(REPO, "main")) == {".gitattributes"}
    assert "encoder_model.onnx" in online.files(REPO, "int4/v2")
    push(folder, card_folder, REPO, revision="int4/v2")  # the branch is there by now
    assert set(online.repo(REPO).branches) == {"main", "int4/v2"}


def test_files_of_others_stay(online: Hub, folder: Path, card_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sample.mp3").write_bytes(b"their sound")
    online.add_repo(REPO, tmp_path / "theirs")
    report = push(folder, card_folder, REPO)
    assert report.remaining == ("sample.mp3",)
    assert "sample.mp3" in online.files(REPO)


@pytest.mark.parametrize(
    "theirs",
    [
        {"README.md": "# Mine"},
        {"config.json": "{}", "model.safetensors": "weights"},
        {".eval_results/wer.yaml": "- value: 5.0"},
    ],
)
def test_what_someone_else_put_there_is_not_written_over(
    online: Hub, folder: Path, card_folder: Path, tmp_path: Path, theirs: dict[str, str]
) -> None:
    for name, text in theirs.items():
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_text(text)
    online.add_repo(REPO, tmp_path / "theirs")
    before = online.files(REPO)
    says = rf"something else than a published model, of which {next(iter(theirs))} would be overwritten or deleted: .*create_pr"
    for dry_run in (True, False):
        with pytest.raises(PublishError, match=says):
            push(folder, card_folder, REPO, dry_run=dry_run)
    assert online.files(REPO) == before
    # A branch of its own, and a proposal, take nothing away.
    push(folder, card_folder, REPO, revision="int4")
    push(folder, card_folder, REPO, create_pr=True)
    assert online.files(REPO) == before


def test_whether_a_new_repo_is_private_is_up_to_its_owner_unless_it_is_said(
    online: Hub, folder: Path, card_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.private_owners.add("tester-org")
    push(folder, card_folder, "tester-org/calls", dry_run=True)
    assert "tester-org/calls (public or private as its owner's settings say)" in capsys.readouterr().out
    push(folder, card_folder, "tester-org/calls")
    push(folder, card_folder, "tester-org/shown", private=False)
    push(folder, card_folder, REPO)
    private = {name: online.repo(name).private for name in ("tester-org/calls", "tester-org/shown", REPO)}
    assert private == {"tester-org/calls": True, "tester-org/shown": False, REPO: False}


def test_dry_run_shows_everything_and_does_nothing(
    online: Hub, folder: Path, card_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = push(folder, card_folder, REPO, dry_run=True, private=True, revision="next")
    shown = capsys.readouterr().out
    assert f"{REPO} (private), revision next: repo will be created" in shown
    for name, content in expected_files(folder, card_folder).items():
        assert re.search(rf"new +{len(content):,} +{hashlib.sha256(content).hexdigest()}  {re.escape(name)}\n", shown)
    assert "dry run: nothing was created or sent" in shown
    assert report.commit_url is None
    assert online.repos == {}
    assert not [request for request in online.requests if not request.startswith("GET")]


def test_dry_run_works_without_token_and_without_network(
    hub: Hub, folder: Path, card_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.patch(monkeypatch, token=None)
    assert push(folder, card_folder, REPO, dry_run=True).creates_repo
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    report = push(folder, card_folder, REPO, dry_run=True)
    assert {file.change for file in report.files} == {"unknown"}
    assert "the Hub could not be asked" in capsys.readouterr().out


def test_no_token_is_said_before_anything_is_asked(
    hub: Hub, folder: Path, card_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.patch(monkeypatch, token=None)
    with pytest.raises(PublishError, match=r"no Hub token: set HF_TOKEN, or run `hf auth login`"):
        push(folder, card_folder, REPO)
    assert hub.requests == []


@pytest.mark.parametrize("token", [TOKEN, "hf_wrongToken", "hf_two\nlines"])
def test_no_token_is_ever_shown(
    online: Hub, folder: Path, card_folder: Path, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = ""
    try:
        push(folder, card_folder, "tester/model" if token == TOKEN else REPO, token=token)
    except PublishError as error:
        message = f"{error} {error.__cause__}"
    assert bool(message) == (token != TOKEN)
    assert token not in message + "".join(capsys.readouterr())
    assert "lines" not in message or "white space" in message


def test_a_namespace_of_others_is_refused_by_the_hub(online: Hub, folder: Path, card_folder: Path) -> None:
    with pytest.raises(PublishError, match=r"openai/mine: the Hub did not take the upload .*403.*token may write"):
        push(folder, card_folder, "openai/mine")


def test_a_public_repo_does_not_get_what_should_be_private(online: Hub, folder: Path, card_folder: Path) -> None:
    push(folder, card_folder, REPO)
    commits = len(online.repo(REPO).commits)
    with pytest.raises(PublishError, match=rf"{REPO} exists and is public, but `private` is set"):
        push(folder, card_folder, REPO, private=True)
    assert len(online.repo(REPO).commits) == commits


@pytest.mark.parametrize("repo_id", ["whisper", "a/b/c", "tester/bad name", "tester/-x", ""])
def test_bad_repo_ids(online: Hub, folder: Path, card_folder: Path, repo_id: str) -> None:
    with pytest.raises(PublishError, match=re.escape(f"repo id is {repo_id!r}")):
        push(folder, card_folder, repo_id)
    assert online.requests == []


@pytest.mark.parametrize("parity", [None, "{", "[]", '{"passed": false}', "{}"])
def test_only_a_verified_export_is_published(online: Hub, folder: Path, card_folder: Path, parity: str | None) -> None:
    path = folder / "parity.json"
    path.unlink() if parity is None else path.write_text(parity)
    with pytest.raises(PublishError, match=r"parity\.json.*run `qat-plugin export` (first|again)"):
        push(folder, card_folder, REPO)
    assert online.requests == []


@pytest.mark.parametrize("parity", [None, '{"passed": false}'])
def test_an_unverified_export_is_published_when_asked_and_its_card_says_so(
    online: Hub, onnx_folders: dict[str, Path], tmp_path: Path, parity: str | None
) -> None:
    folder = onnx_folders["qat"]
    path = folder / "parity.json"
    path.unlink() if parity is None else path.write_text(parity)
    measured = measure(tmp_path / "again", onnx_folders, RECIPE)
    card = write_card(measured, folder, tmp_path / "card", allow_unverified=True).parent
    with pytest.raises(PublishError, match=r"parity\.json.*run `qat-plugin export` (first|again)"):
        push(folder, card, REPO)
    assert online.requests == []
    push(folder, card, REPO, allow_unverified=True)
    publish_to_folder(folder, card, tmp_path / "published", allow_unverified=True)
    for text in (online.files(REPO)["README.md"].decode(), (tmp_path / "published" / "README.md").read_text()):
        assert "**Not verified.** The check against the trained model" in text


def test_other_files_than_the_measured_ones_are_refused(online: Hub, folder: Path, card_folder: Path) -> None:
    graph = folder / "encoder_model.onnx"
    before = graph.read_bytes()
    one_byte = before[:500] + bytes([before[500] ^ 1]) + before[501:]
    graph.write_bytes(one_byte)
    digests = f"encoder_model\\.onnx has sha256 {sha256(one_byte)}, .* on {sha256(before)}: "
    with pytest.raises(PublishError, match=digests + ".*run `qat-plugin export` again"):
        push(folder, card_folder, REPO)
    # The figures are of other files, whatever is said of the gate.
    with pytest.raises(PublishError, match=digests + ".*evaluate"):
        push(folder, card_folder, REPO, allow_unverified=True)
    graph.unlink()
    for unverified, lacks in ((False, "the parity gate passed with it"), (True, "the results were measured with it")):
        with pytest.raises(PublishError, match=rf"encoder_model\.onnx is missing, but {lacks}"):
            push(folder, card_folder, REPO, allow_unverified=unverified)
    graph.write_bytes(before)
    (folder / "decoder_model.onnx").write_bytes(b"not measured")
    with pytest.raises(PublishError, match=r"decoder_model\.onnx is not among the measured files"):
        push(folder, card_folder, REPO)
    assert online.requests == []


def test_the_gate_vouches_for_the_files_that_it_passed_alone(
    online: Hub, onnx_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Changed since, they may be measured again; what they compute was compared with nothing."""
    folder = onnx_folders["qat"]
    graph = folder / "encoder_model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    measured = measure(tmp_path / "again", onnx_folders, RECIPE)
    with pytest.raises(
        PublishError, match=r"encoder_model\.onnx has sha256 .*, the parity gate passed on .*export` again"
    ):
        write_card(measured, folder, tmp_path / "card")
    card = write_card(measured, folder, tmp_path / "card", allow_unverified=True).parent
    with pytest.raises(PublishError, match=r"the parity gate passed on"):
        push(folder, card, REPO)
    assert online.requests == []
    push(folder, card, REPO, allow_unverified=True)
    assert "the trained model was not run on these files" in online.files(REPO)["README.md"].decode()


def test_files_that_were_not_measured_are_published_when_asked_and_the_card_names_them(
    online: Hub, folder: Path, card_folder: Path, tmp_path: Path
) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    (folder / "encoder_model_fp16.onnx").write_bytes(b"another")
    describe(folder, "int4")  # exported again, with the gate passed
    with pytest.raises(PublishError, match=r"config\.json has sha256 .*the results were measured on"):
        push(folder, card_folder, REPO)
    assert online.requests == []
    push(folder, card_folder, REPO, allow_unmeasured=True)
    publish_to_folder(folder, card_folder, tmp_path / "published", allow_unmeasured=True)
    for text in (online.files(REPO)["README.md"].decode(), (tmp_path / "published" / "README.md").read_text()):
        said = "**Not measured.** The figures of this model were measured on other files than these: config.json, "
        assert said + "quantization.json, encoder_model_fp16.onnx.\n" in text
        assert "files are the ones that were measured" not in text
    # Of measured files the flag says nothing.
    (folder / "encoder_model_fp16.onnx").unlink()
    config.write_text(config.read_text()[:-1])
    describe(folder, "int4")
    push(folder, card_folder, REPO, allow_unmeasured=True)
    assert online.files(REPO)["README.md"] == (card_folder / "README.md").read_bytes()


def test_a_card_of_other_results_is_refused(
    online: Hub, onnx_folders: dict[str, Path], card_folder: Path, results_file: Path
) -> None:
    document = json.loads((card_folder / "results.json").read_text())
    document["measurements"]["qat"]["calls"]["wer"] = 0.125
    (card_folder / "results.json").write_text(json.dumps(document))
    with pytest.raises(PublishError, match=r"README\.md does not show the results beside it.*value: 12\.5.*card"):
        push(onnx_folders["qat"], card_folder, REPO)
    # Rendered again, it is taken.
    write_card(results_file, onnx_folders["qat"], card_folder)
    push(onnx_folders["qat"], card_folder, REPO)


def test_missing_or_foreign_card_folders_are_named(
    online: Hub, folder: Path, card_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PublishError, match=r"results\.json is missing: run `qat-plugin card`"):
        push(folder, tmp_path / "nowhere", REPO)
    (card_folder / "README.md").unlink()
    with pytest.raises(PublishError, match=r"README\.md is missing: run `qat-plugin card`"):
        push(folder, card_folder, REPO)
    (card_folder / "results.json").write_text("{}")
    with pytest.raises(PublishError, match=r"results\.json is not what `qat-plugin card` writes"):
        push(folder, card_folder, REPO)


def test_an_unreachable_hub_is_one_clear_error(
    online: Hub, folder: Path, card_folder: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match=rf"{REPO}: the Hub does not answer as it should"):
        push(folder, card_folder, REPO)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once, here and inside huggingface_hub."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.parametrize("outcome", [503, None])
@pytest.mark.parametrize("request_", [
    "GET /api/models/.*", "POST /api/repos/create", "POST /api/models/.*/preupload/.*", "POST /.*/lfs/objects/batch",
    "PUT /.*", "POST /api/models/.*/commit/.*",
])  # fmt: skip
def test_what_fails_for_a_moment_is_tried_again(
    online: Hub, folder: Path, card_folder: Path, impatient: None, request_: str, outcome: int | None
) -> None:
    online.fail(request_, outcome)
    push(folder, card_folder, REPO)
    assert online.faults == []
    assert {name: content for name, content in online.files(REPO).items() if name != ".gitattributes"} == (
        expected_files(folder, card_folder)
    )
    assert len(online.repo(REPO).commits) == 2


def test_a_commit_whose_answer_is_lost_is_not_made_again(
    online: Hub, folder: Path, card_folder: Path, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    online.fail("POST /api/models/.*/commit/.*", LOST)
    report = push(folder, card_folder, REPO)
    repo = online.repo(REPO)
    assert [commit.message for commit in repo.commits.values()] == [
        "initial commit",
        "Upload quantized ONNX and model card",
    ]
    assert report.commit_url == f"{online.endpoint}/{REPO}/commit/{repo.branches['main']}"
    assert "trying again" in capsys.readouterr().out
    assert online.files(REPO).items() >= expected_files(folder, card_folder).items()


def test_what_goes_on_failing_is_an_error_and_the_next_push_mends_it(
    online: Hub, folder: Path, card_folder: Path, impatient: None
) -> None:
    online.fail("POST /api/models/.*/commit/.*", *[500] * 100)
    with pytest.raises(PublishError, match=r"the Hub did not take the upload .*500.*run push again"):
        push(folder, card_folder, REPO)
    assert len(online.repo(REPO).commits) == 1
    online.faults.clear()
    online.requests.clear()
    push(folder, card_folder, REPO)
    assert not [request for request in online.requests if request.startswith("PUT")]
    assert "encoder_model.onnx" in online.files(REPO)


def test_of_a_broken_upload_the_next_push_sends_what_is_missing(
    online: Hub, folder: Path, card_folder: Path, impatient: None
) -> None:
    """The first of two graphs arrived: its bytes are not sent again."""
    late = sha256((folder / "decoder_model_merged.onnx").read_bytes())
    online.fail(f"PUT /{late}", *[503] * 100)
    with pytest.raises(PublishError, match=r"the Hub did not take the upload .*run push again"):
        push(folder, card_folder, REPO)
    assert len(online.repo(REPO).commits) == 1
    online.faults.clear()
    online.requests.clear()
    push(folder, card_folder, REPO)
    assert [request for request in online.requests if request.startswith("PUT")] == [f"PUT /{late}"]
    assert online.files(REPO).items() >= expected_files(folder, card_folder).items()


def test_a_refusal_is_not_tried_again(online: Hub, folder: Path, card_folder: Path, impatient: None) -> None:
    online.fail("POST /api/models/.*/commit/.*", 403)
    with pytest.raises(PublishError, match="the Hub did not take the upload .*403"):
        push(folder, card_folder, REPO)
    assert len([request for request in online.requests if "/commit/" in request]) == 1


def test_a_pull_request_leaves_the_branch_as_it_is(
    online: Hub, folder: Path, card_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sample.mp3").write_bytes(b"their sound")
    online.add_repo(REPO, tmp_path / "theirs")
    report = push(folder, card_folder, REPO, create_pr=True)
    assert report.pull_request_url == f"{online.endpoint}/{REPO}/discussions/1"
    assert "encoder_model.onnx" not in online.files(REPO)
    proposed = online.files(REPO, "refs/pr/1")
    assert proposed["sample.mp3"] == b"their sound"
    assert proposed.items() >= expected_files(folder, card_folder).items()


@pytest.mark.parametrize("revision", [None, "next"])
def test_a_pull_request_needs_something_to_go_to(
    online: Hub, folder: Path, card_folder: Path, revision: str | None
) -> None:
    if revision:
        push(folder, card_folder, REPO)
    with pytest.raises(PublishError, match=f"no such {'revision next' if revision else 'repo'} for a pull request"):
        push(folder, card_folder, REPO, create_pr=True, revision=revision)
    assert not [branch for branch in online.repos.get(("model", REPO), Repo("", "", False)).branches if "pr" in branch]


def test_the_same_again_sends_nothing(
    online: Hub, folder: Path, card_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(folder, card_folder, REPO)
    online.requests.clear()
    assert push(folder, card_folder, REPO, create_pr=True).commit_url is None
    assert "nothing changed: nothing was sent" in capsys.readouterr().out
    assert not [request for request in online.requests if not request.startswith("GET")]


def test_what_is_no_part_of_the_model_stays_at_home(
    online: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when it lay there while the model was measured."""
    (folder / ".cache").mkdir()
    (folder / ".cache" / "encoder_model.onnx").write_bytes(b"x")
    (folder / "README.md").write_text("an old card")
    (folder / "call-0001.wav").write_bytes(b"a customer")
    folders = {arm: folder.parent / arm for arm in ("fp", "ptq-rtn", "qat")}
    card = write_card(measure(tmp_path / "again", folders, RECIPE), folder, tmp_path / "card2")
    push(folder, card.parent, REPO)
    sent = online.files(REPO)
    assert {name for name in sent if name != ".gitattributes"} == {
        "README.md", "config.json", "decoder_model_merged.onnx", "encoder_model.onnx", "parity.json", "quantization.json",
    }  # fmt: skip
    assert sent["README.md"] == card.read_bytes()
    left = "no part of the model, so not published: .cache/encoder_model.onnx, README.md, call-0001.wav\n"
    assert left in capsys.readouterr().out


@pytest.mark.slow
def test_a_pushed_model_transcribes_by_its_hub_id(
    online: Hub, onnx_folders: dict[str, Path], tiny_whisper_dir: Path, tmp_path: Path
) -> None:
    import torch

    from qat_plugin.export.writer import export_onnx
    from qat_plugin.fake_quant.checkpoint import read_checkpoint
    from qat_plugin.runtime import QuantizedWhisper

    folder = tmp_path / "onnx" / "tiny"
    export_onnx(read_checkpoint(tiny_whisper_dir), folder)
    describe(folder, None)
    (folder / "parity.json").write_text((onnx_folders["qat"] / "parity.json").read_text())
    measured = measure(tmp_path / "evaluation", {**onnx_folders, "qat": folder}, RECIPE)
    card = write_card(measured, folder, tmp_path / "card")
    push(folder, card.parent, REPO, private=True, revision="tiny")

    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    options = {"language": "fr", "task": "transcribe", "max_new_tokens": 12}
    expected = QuantizedWhisper.from_pretrained(folder).generate(features, **options)
    assert QuantizedWhisper.from_pretrained(REPO, revision="tiny").generate(features, **options).equal(expected)
    assert online.unknown == []
